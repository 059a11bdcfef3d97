"""The sampler of a free-threaded interpreter whose GIL is disabled: nobody waits for it.

Importing an extension module that is not ready for free threading can switch the GIL on again, for good. From
the first reading that notices it, another sampler goes on.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from otel_gil._snapshot import Snapshot
from otel_gil._unpatched import original

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_gil._samplers import Sampler

_logger = logging.getLogger(__name__)

_monotonic = original("time", "monotonic")
_allocate_lock = original("_thread", "allocate_lock")


def unavailable() -> str | None:
    """Why this sampler can't measure here; None where it can."""
    # Always true before 3.13, which has no such function, and in builds with a GIL.
    enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    return "the GIL is enabled" if enabled else None


class DisabledGilSampler:
    """Reads no contention as long as the GIL is disabled.

    Args:
        successor: makes the sampler that goes on when the GIL has been switched on, None where there is none.
    """

    forkable = True

    def __init__(self, successor: Callable[[], Sampler | None]) -> None:
        self._make_successor = successor
        self._successor: Sampler | None = None
        self._lock = _allocate_lock()
        self._start = 0.0
        self._last = Snapshot(0.0, 0.0, 0.0)
        self._enabled = False

    def start(self, since: Snapshot | None = None) -> None:
        """Start the clock; in a forked child, with the totals to go on from."""
        self._lock = _allocate_lock()
        if self._successor:
            self._successor.start(since)
        elif since:
            self._last = Snapshot(*since[:3])
        self._start = _monotonic() - self._last.free

    def stop(self) -> None:
        """Stop the sampler that took over, if one did."""
        with self._lock:
            self._enabled = True
            if self._successor:
                self._successor.stop()

    def read(self) -> Snapshot | None:
        """No contention, and all the time free; the successor's reading once the GIL is enabled."""
        with self._lock:
            if not self._enabled and unavailable():
                self._enabled = True
                _logger.warning("The GIL has been switched on: its contention is measured from now on")
                self._successor = self._make_successor()
                if self._successor:
                    # The time since the last reading is in neither total: nobody knows when it was switched on.
                    self._successor.start(self._last)
            if self._enabled:
                return self._successor.read() if self._successor else None
            self._last = Snapshot(0.0, self._last.blocked, _monotonic() - self._start)
            return self._last
