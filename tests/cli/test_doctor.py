from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time

import pytest
from marks import with_observer

from otel_gil import _samplers
from otel_gil._cli import doctor as _doctor
from otel_gil._samplers import disabled

COMMAND = [sys.executable, "-c", "import sys; from otel_gil._cli import main; sys.exit(main())", "doctor"]


def doctor(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | variables
    return subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False, timeout=60)


def values(output: str) -> dict[str, str]:
    """Labels and what is said of them."""
    rows = (line.split(maxsplit=1) for line in output.splitlines() if line.startswith("  "))
    return {row[0]: row[1] for row in rows}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def test_it_can_measure() -> None:
    chosen, _ = _samplers.choose()
    done = doctor(OTEL_METRICS_EXPORTER="prometheus", OTEL_EXPORTER_PROMETHEUS_PORT="9999")
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert done.stdout.endswith("\nThe GIL can be measured here.\n")
    said = values(done.stdout)
    assert platform.python_version() in said["Python"]
    assert said["GIL"] == ("disabled" if disabled.unavailable() is None else "enabled")
    assert said["sampler"] == f"{chosen} (auto)"
    assert said[str(chosen)] == "available, taken by auto"
    assert said["OTEL_PYTHON_GIL_SAMPLER"] == "auto (default)"
    assert said["OTEL_PYTHON_GIL_SAMPLING_INTERVAL"] == "the sampler's (default)"
    assert said["OTEL_PYTHON_GIL_CONTENTION_WINDOW"] == "10000 ms (default)"
    assert said["OTEL_METRICS_EXPORTER"] == "prometheus (set)"
    assert said["OTEL_EXPORTER_PROMETHEUS_HOST"] == "localhost (default)"
    assert said["OTEL_EXPORTER_PROMETHEUS_PORT"] == "9999 (set)"
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in said
    assert 0 <= float(said["contention"]) < 0.5
    assert max(len(line) for line in done.stdout.splitlines()) < 150


def test_unusable_values_are_shown_with_what_is_used_instead() -> None:
    done = doctor(
        OTEL_PYTHON_GIL_SAMPLER="guess",
        OTEL_PYTHON_GIL_SAMPLING_INTERVAL="0.1",
        OTEL_PYTHON_GIL_CONTENTION_WINDOW="2000",
    )
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    said = values(done.stdout)
    assert said["OTEL_PYTHON_GIL_SAMPLER"].startswith("auto (default), as 'guess' is not one of auto, ")
    assert said["OTEL_PYTHON_GIL_SAMPLING_INTERVAL"].startswith("the sampler's (default), as '0.1' is not a number ")
    assert said["OTEL_PYTHON_GIL_CONTENTION_WINDOW"] == "2000 ms (set)"


def test_no_sampler_wanted() -> None:
    done = doctor(OTEL_PYTHON_GIL_SAMPLER="none")
    assert done.returncode == 1
    assert done.stdout.endswith("\nThe GIL is not measured here: OTEL_PYTHON_GIL_SAMPLER is 'none'; unset it\n")


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "requests, gil", "has 'gil'"),
        ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "*", "has '*'"),
        ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "gilt", None),
        ("OTEL_SDK_DISABLED", "True", "OTEL_SDK_DISABLED is 'true'"),
        ("OTEL_SDK_DISABLED", "false", None),
    ],
)
def test_switched_off(variable: str, value: str, problem: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    found = _doctor.switched_off()
    assert problem in found if problem and found else found is problem


def test_switched_off_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setattr(_doctor, "measure", lambda: ([("contention", "0.00")], None))
    assert _doctor.run() == 1
    assert capsys.readouterr().out.endswith("The GIL is not measured here: OTEL_SDK_DISABLED is 'true'; unset it\n")


def test_no_sampler_available(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _samplers.UNAVAILABLE:
        monkeypatch.setitem(_samplers.UNAVAILABLE, name, lambda: "the stars are wrong")
    assert "not available: the stars are wrong" in dict(_doctor.samplers()).values()
    reading, problem = _doctor.measure()
    assert not reading
    assert problem and "gilknocker: the stars are wrong" in problem


@with_observer
def test_observer(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What measures is said, also where that is another one."""
    monkeypatch.setenv("OTEL_PYTHON_GIL_SAMPLER", "observer")
    assert dict(_doctor.configuration())["OTEL_PYTHON_GIL_SAMPLER"] == "observer (set)"
    reading, problem = _doctor.measure()
    assert dict(reading)["sampler"] == "observer" and not problem
    assert not caplog.records
    monkeypatch.setitem(_samplers.UNAVAILABLE, "observer", lambda: "the stars are wrong")
    assert dict(_doctor.samplers())["observer"] == "not available: the stars are wrong"
    assert dict(_doctor.configuration())["OTEL_PYTHON_GIL_SAMPLER"] == (
        "auto (default), as 'observer' is not available: the stars are wrong"
    )
    chosen, _ = _samplers.choose()
    assert chosen != "observer"
    reading, problem = _doctor.measure()
    assert dict(reading)["sampler"] == f"{chosen} (auto)" and not problem
    (record,) = caplog.records
    assert "as the sampler 'observer' can't be used: the stars are wrong" in record.getMessage()


def test_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def start(self) -> None: ...
        def stop(self) -> None: ...
        def read(self) -> None: ...

    monkeypatch.setattr(_samplers, "create", lambda *_: Silent())
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(threading.Event, "wait", lambda *_: False)
    reading, problem = _doctor.measure()
    assert not reading
    assert problem and "gave no reading" in problem


def test_exporters_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console, pigeon")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    assert _doctor.missing_exporters("traces") == ["pigeon"]
    assert _doctor.missing_exporters("logs") == []
    assert "pigeon is not installed" in dict(_doctor.configuration())["OTEL_TRACES_EXPORTER"]


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:secret@example.com:4318/")
    said = dict(_doctor.configuration())
    assert said["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://***@example.com:4318/ (set)"
    assert said["OTEL_METRIC_EXPORT_INTERVAL"] == "60000 (default)"


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_doctor, "_version", lambda _: None)
    assert dict(_doctor.packages())["gilknocker"] == "not installed (pip install 'otel-gil[gilknocker]')"
    assert dict(_doctor.configuration())["OTEL_METRICS_EXPORTER"] == "none (default)"
