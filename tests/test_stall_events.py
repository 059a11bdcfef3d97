from __future__ import annotations

import logging
from collections.abc import Iterator
from contextvars import Context, copy_context

import pytest
from opentelemetry._logs import LoggerProvider as AnyLoggerProvider
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, use_span

from otel_gil import _stalls
from otel_gil._snapshot import Stall

STACK = '  File "/srv/app.py", line 7, in <module>\n  File "/srv/app.py", line 3, in f\n'
STALL = Stall(2.5, "worker", 77, "app.f", "/srv/app.py", 3, STACK)
SAID = "The GIL was held for 2.5 s by worker in app.f (line 3 of /srv/app.py)"
MOMENT = 1_700_000_000_000_000_000


@pytest.fixture
def exporter() -> InMemoryLogRecordExporter:
    return InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]


@pytest.fixture
def provider(exporter: InMemoryLogRecordExporter) -> Iterator[LoggerProvider]:
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def spans() -> list[Span]:
    tracer = TracerProvider().get_tracer("tests")
    return [tracer.start_span(name) for name in ("the holder's", "another")]


def _in_span(span: Span) -> Context:
    """The context of a thread that this span is current in."""
    with use_span(span):
        return copy_context()


def test_event(provider: LoggerProvider, exporter: InMemoryLogRecordExporter, caplog: pytest.LogCaptureFixture) -> None:
    _stalls.emit(STALL, MOMENT, None, provider)
    (found,) = exporter.get_finished_logs()
    record = found.log_record
    assert (record.event_name, record.severity_text) == ("cpython.gil.stall", "WARN")
    assert record.timestamp == MOMENT
    assert record.body == SAID
    assert record.attributes == {
        "cpython.gil.stall.duration": 2.5,
        "thread.name": "worker",
        "thread.id": 77,
        "code.function.name": "app.f",
        "code.file.path": "/srv/app.py",
        "code.line.number": 3,
        "code.stacktrace": STACK,
    }
    assert not caplog.records, "said twice"


@pytest.mark.parametrize("entered", [False, True], ids=["left", "still entered"])
def test_the_event_belongs_to_the_span_of_who_held_the_gil(
    entered: bool, provider: LoggerProvider, exporter: InMemoryLogRecordExporter, spans: list[Span]
) -> None:
    """And not to that of the thread that tells of it."""
    holders, others = spans
    context = _in_span(holders)
    with use_span(others):
        if entered:
            context.run(_stalls.emit, STALL, MOMENT, context, provider)
        else:
            _stalls.emit(STALL, MOMENT, context, provider)
    (found,) = exporter.get_finished_logs()
    expected = holders.get_span_context()
    record = found.log_record
    assert (record.trace_id, record.span_id) == (expected.trace_id, expected.span_id)
    assert record.trace_flags == expected.trace_flags


@pytest.mark.parametrize("context", [None, Context()], ids=["not known", "without a span"])
def test_an_event_of_no_span(
    context: Context | None, provider: LoggerProvider, exporter: InMemoryLogRecordExporter, spans: list[Span]
) -> None:
    """Also where the thread that tells of it is in one."""
    with use_span(spans[0]):
        _stalls.emit(STALL, MOMENT, context, provider)
    (found,) = exporter.get_finished_logs()
    assert not found.log_record.trace_id
    assert not found.log_record.span_id


@pytest.mark.parametrize(
    "nobody", [LoggerProvider(), NoOpLoggerProvider(), None], ids=["no processor", "no-op", "no SDK"]
)
def test_a_warning_where_nobody_exports_events(
    nobody: AnyLoggerProvider | None, caplog: pytest.LogCaptureFixture
) -> None:
    _stalls.emit(STALL, MOMENT, None, nobody)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("otel_gil._stalls", logging.WARNING)
    assert record.getMessage() == f"{SAID}\n{STACK.rstrip()}"


@pytest.mark.parametrize(
    ("stall", "said"),
    [
        (Stall(2.5, "worker", 77), "The GIL was held for 2.5 s by worker"),
        (Stall(0.16, "worker", 77, "app.f"), "The GIL was held for 0.2 s by worker in app.f"),
        (Stall(2.5, "worker", 77, "app.f", "/srv/app.py"), "The GIL was held for 2.5 s by worker in app.f"),
    ],
)
def test_what_is_not_known_is_not_said(stall: Stall, said: str, caplog: pytest.LogCaptureFixture) -> None:
    _stalls.emit(stall, MOMENT, None, NoOpLoggerProvider())
    assert caplog.messages == [said]


def test_what_is_not_known_is_absent() -> None:
    assert _stalls.attributes(Stall(2.5, "worker", 77)) == {
        "cpython.gil.stall.duration": 2.5,
        "thread.name": "worker",
        "thread.id": 77,
    }


def test_an_api_without_events_gets_a_warning(
    provider: LoggerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Logger:
        def emit(self, record: object) -> None:
            """As before opentelemetry-api 1.37."""

    monkeypatch.setattr("opentelemetry._logs.get_logger", lambda *_: Logger())
    _stalls.emit(STALL, MOMENT, None, provider)
    assert caplog.messages == [f"{SAID}\n{STACK.rstrip()}"]
