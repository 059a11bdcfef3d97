"""What is configured, seen in the console exporter's JSON."""

from __future__ import annotations

import json

import pytest
from measurements import MEASURED, OBSERVED, OF_WAITERS

from otel_gil._samplers import observer

from .processes import Application, Start, python, wait_for

APP = python("counting")
ENVIRONMENT = {"OTEL_METRICS_EXPORTER": "console", "OTEL_METRIC_EXPORT_INTERVAL": "300"}
FAST = {"OTEL_PYTHON_GIL_SAMPLING_INTERVAL": "5"}  # where waits are recorded in batches of samples
OURS = MEASURED | (OBSERVED if observer.unavailable() is None else set())


def exports(application: Application) -> list[set[str]]:
    """The names of the metrics in each export so far."""
    return [
        {
            metric["name"]
            for of_resource in json.loads(text + "}")["resource_metrics"]
            for of_scope in of_resource["scope_metrics"]
            for metric in of_scope["metrics"]
        }
        for text in application.stdout.split("\n}\n")[:-1]
    ]


def assert_metrics(application: Application) -> None:
    """All of our metrics are exported, and the application ends well."""
    wait_for(lambda: OURS <= set().union(*exports(application)), "the metrics")
    assert application.wait() == 0


def assert_no_metrics(application: Application) -> None:
    """None of our metrics is exported, nothing is said about it, and the application ends well."""
    wait_for(lambda: len(exports(application)) >= 4, "exports")
    assert application.wait() == 0
    assert set().union(*exports(application)) == {"app.starts"}
    assert application.stderr == ""


def test_installed_is_enough(start: Start) -> None:
    application = start(*APP, **ENVIRONMENT, **FAST)
    assert_metrics(application)
    assert set().union(*exports(application)) - OF_WAITERS == {"app.starts"} | OURS
    assert application.stderr == ""


def test_disabled_as_any_instrumentation(start: Start) -> None:
    assert_no_metrics(start(*APP, **ENVIRONMENT, **FAST, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="gil"))


def test_no_sampler(start: Start) -> None:
    assert_no_metrics(start(*APP, **ENVIRONMENT, **FAST, OTEL_PYTHON_GIL_SAMPLER="none"))


def test_option_of_the_command(start: Start) -> None:
    assert_no_metrics(start("--gil_sampler", "none", *APP, **ENVIRONMENT, **FAST))


@pytest.mark.parametrize(
    ("variable", "value", "default"),
    [
        ("OTEL_PYTHON_GIL_SAMPLING_INTERVAL", "often", "the sampler's default"),
        ("OTEL_PYTHON_GIL_SAMPLING_INTERVAL", "0", "the sampler's default"),
        ("OTEL_PYTHON_GIL_CONTENTION_WINDOW", "nan", "10000"),
        ("OTEL_PYTHON_GIL_SAMPLER", "best", "auto"),
    ],
)
def test_what_cannot_be_used_is_a_warning(start: Start, variable: str, value: str, default: str) -> None:
    application = start(*APP, **{**ENVIRONMENT, **FAST, variable: value})
    assert_metrics(application)
    (warning,) = application.stderr.splitlines()
    assert warning.startswith(f"{variable}='{value}' is not ")
    assert f"using {default}" in warning
