"""What is told of a hold of the GIL that was too long: a log event, or else a warning."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from otel_gil._metrics import FUNCTION, THREAD
from otel_gil.version import __version__

if TYPE_CHECKING:
    from contextvars import Context

    from opentelemetry._logs import Logger, LoggerProvider

    from otel_gil._snapshot import Stall

_logger = logging.getLogger(__name__)

_NAME = "cpython.gil.stall"


def emit(stall: Stall, moment: int, context: Context | None, logger_provider: LoggerProvider | None = None) -> None:
    """Emit the event `cpython.gil.stall`, if somebody exports events; else log a warning.

    Args:
        stall: the hold, which is over.
        moment: when it ended, in nanoseconds since 1970.
        context: in which the thread ran that held the GIL, for the event to belong to its span; None if not known.
        logger_provider: gets it; default: the global one.
    """
    from opentelemetry._logs import SeverityNumber, get_logger

    message = describe(stall)
    logger = get_logger("otel_gil", __version__, logger_provider)
    if _is_exported(logger, logger_provider):
        try:
            logger.emit(
                timestamp=moment,
                context=_of_its_span(context),
                severity_number=SeverityNumber.WARN,
                severity_text="WARN",
                body=message,
                attributes=attributes(stall),
                event_name=_NAME,
            )
        except TypeError:  # an API that has no such events (before 1.37)
            _logger.debug("This opentelemetry-api has no events", exc_info=True)
        else:
            return
    _logger.warning("%s%s", message, f"\n{stall.stack.rstrip()}" if stall.stack else "")


def describe(stall: Stall) -> str:
    """A stall in a line: for how long, which thread, function and line."""
    where = f" in {stall.function}" if stall.function else ""
    line = f" (line {stall.line} of {stall.file})" if stall.line and stall.file else ""
    return f"The GIL was held for {stall.seconds:.1f} s by {stall.thread}{where}{line}"


def attributes(stall: Stall) -> dict[str, str | int | float]:
    """What OpenTelemetry's semantic conventions call it, as far as it is known, and the duration in seconds."""
    known: dict[str, str | int | float | None] = {
        "cpython.gil.stall.duration": stall.seconds,
        THREAD: stall.thread,
        "thread.id": stall.native_id,
        FUNCTION: stall.function,
        "code.file.path": stall.file,
        "code.line.number": stall.line,
        "code.stacktrace": stall.stack,
    }
    return {name: value for name, value in known.items() if value}


def _is_exported(logger: Logger, provider: LoggerProvider | None) -> bool:
    from opentelemetry._logs import SeverityNumber, get_logger_provider

    if enabled := getattr(logger, "enabled", None):
        return bool(enabled(severity_number=SeverityNumber.WARN, event_name=_NAME))
    # The SDK tells only since 1.44 or so whether anybody listens.
    listeners: Any = getattr(provider or get_logger_provider(), "_multi_log_record_processor", None)
    return bool(getattr(listeners, "_log_record_processors", ()))


def _of_its_span(context: Context | None) -> Any:
    """OpenTelemetry's context with the span that was current in a context of Python's, or with none."""
    from opentelemetry.context import Context as Values
    from opentelemetry.trace import INVALID_SPAN, get_current_span, set_span_in_context

    # A copy, as the context itself can be entered, which it is once only.
    span = context.copy().run(get_current_span) if context is not None else INVALID_SPAN
    return set_span_in_context(span, Values())
