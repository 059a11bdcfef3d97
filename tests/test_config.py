from __future__ import annotations

import logging
import re

import pytest

from otel_gil import _config
from otel_gil._samplers import UNAVAILABLE

OPTIONS = [_config.SAMPLER, _config.SAMPLING_INTERVAL, _config.CONTENTION_WINDOW]

UNUSABLE = [
    (_config.SAMPLER, "fast", "is not one of auto, observer, poisson, gilknocker, none"),
    (_config.SAMPLING_INTERVAL, "often", "is not a number of milliseconds from 1 to 1000"),
    (_config.SAMPLING_INTERVAL, "0", "is not a number of milliseconds from 1 to 1000"),
    (_config.SAMPLING_INTERVAL, "-20", "is not a number of milliseconds from 1 to 1000"),
    (_config.SAMPLING_INTERVAL, "nan", "is not a number of milliseconds from 1 to 1000"),
    (_config.SAMPLING_INTERVAL, "inf", "is not a number of milliseconds from 1 to 1000"),
    (_config.CONTENTION_WINDOW, "10s", "is not a number of milliseconds from 1000 to 3600000"),
    (_config.CONTENTION_WINDOW, "10", "is not a number of milliseconds from 1000 to 3600000"),
    (_config.HOLDERS_BY, "process", "is not one of none, thread, function"),
    (_config.STALL_THRESHOLD, "50", "is not a number of milliseconds from 100 to 3600000"),
    (_config.STALL_STDERR, "yes", "is neither true nor false"),
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)


def test_defaults() -> None:
    assert [option.resolve() for option in OPTIONS] == ["auto", None, 10_000]


@pytest.mark.parametrize(("option", "value"), [(_config.SAMPLER, ""), (_config.SAMPLING_INTERVAL, "  ")])
def test_an_empty_variable_is_none(option: _config.Option, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(option.variable, value)
    assert option.resolve() == option.default


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for option, value in zip(OPTIONS, [" Poisson ", "12.5", "5000"], strict=True):
        monkeypatch.setenv(option.variable, value)
    assert [option.resolve() for option in OPTIONS] == ["poisson", 12.5, 5000]


def test_arguments_come_before_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_GIL_SAMPLING_INTERVAL", "often")
    assert _config.SAMPLING_INTERVAL.resolve(1) == 1


@pytest.mark.parametrize(("option", "value", "words"), UNUSABLE)
def test_an_unusable_variable_is_a_warning(
    option: _config.Option,
    value: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(option.variable, value)
    assert option.resolve() == option.default
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    # The sampling interval has no default of its own: it is the sampler's.
    default = "the sampler's default" if option is _config.SAMPLING_INTERVAL else option.default
    assert record.getMessage() == f"{option.variable}={value!r} {words}; using {default}"


@pytest.mark.parametrize(("option", "value", "words"), UNUSABLE)
def test_an_unusable_argument_is_an_error(option: _config.Option, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'{option.name}={value!r} {words}')}$"):
        option.resolve(value)


@pytest.mark.parametrize("value", [True, [], object(), float("nan")])
def test_an_argument_of_another_type_is_an_error(value: object) -> None:
    for option in OPTIONS:
        with pytest.raises(ValueError, match=option.name):
            option.resolve(value)


def test_a_sampler_that_is_not_available(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(UNAVAILABLE, "gilknocker", lambda: "it is not installed")
    monkeypatch.setenv("OTEL_PYTHON_GIL_SAMPLER", "gilknocker")
    assert _config.SAMPLER.resolve() == "auto"
    assert caplog.messages == ["OTEL_PYTHON_GIL_SAMPLER='gilknocker' is not available: it is not installed; using auto"]
    with pytest.raises(ValueError, match="^sampler='gilknocker' is not available: it is not installed$"):
        _config.SAMPLER.resolve("gilknocker")
