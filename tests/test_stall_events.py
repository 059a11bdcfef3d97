from __future__ import annotations

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from otel_gil import _stalls
from otel_gil._snapshot import Stall

STACK = '  File "/srv/app.py", line 7, in <module>\n  File "/srv/app.py", line 3, in f\n'
STALL = Stall(2.5, "worker", 77, "app.f", "/srv/app.py", 3, STACK)


def test_event() -> None:
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    _stalls.emit(STALL, 1_700_000_000_000_000_000, provider)
    (found,) = exporter.get_finished_logs()
    record = found.log_record
    assert (record.event_name, record.severity_text) == ("cpython.gil.stall", "WARN")
    assert record.timestamp == 1_700_000_000_000_000_000
    assert record.body == "The GIL was held for 2.5 s by worker"
    assert record.attributes == {
        "cpython.gil.stall.duration": 2.5,
        "thread.name": "worker",
        "thread.id": 77,
        "code.function.name": "app.f",
        "code.file.path": "/srv/app.py",
        "code.line.number": 3,
        "code.stacktrace": STACK,
    }
    provider.shutdown()


def test_what_is_not_known_is_absent() -> None:
    assert _stalls.attributes(Stall(2.5, "worker", 77)) == {
        "cpython.gil.stall.duration": 2.5,
        "thread.name": "worker",
        "thread.id": 77,
    }


def test_an_api_without_events_gets_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Logger:
        def emit(self, record: object) -> None:
            """As before opentelemetry-api 1.37."""

    monkeypatch.setattr("opentelemetry._logs.get_logger", lambda *_: Logger())
    _stalls.emit(STALL, 0)
    (record,) = caplog.records
    assert record.getMessage() == "The GIL was held for 2.5 s by worker\n" + STACK
