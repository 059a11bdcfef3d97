"""The log record of a hold of the GIL that was too long."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from otel_gil._metrics import FUNCTION, THREAD
from otel_gil.version import __version__

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider

    from otel_gil._snapshot import Stall

_logger = logging.getLogger(__name__)


def emit(stall: Stall, moment: int, logger_provider: LoggerProvider | None = None) -> None:
    """Emit the event `cpython.gil.stall`; with an API that has no such events (before 1.37), log a warning.

    Args:
        stall: the hold, which is over.
        moment: when it ended, in nanoseconds since 1970.
        logger_provider: gets it; default: the global one.
    """
    from opentelemetry._logs import SeverityNumber, get_logger

    message = f"The GIL was held for {stall.seconds:.1f} s by {stall.thread}"
    try:
        get_logger("otel_gil", __version__, logger_provider).emit(
            timestamp=moment,
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            body=message,
            attributes=attributes(stall),
            event_name="cpython.gil.stall",
        )
    except TypeError:
        _logger.warning("%s\n%s", message, stall.stack)


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
