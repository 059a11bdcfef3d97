"""Holds of the GIL, and the truth about them."""

from __future__ import annotations

import ctypes
import time

_usleep = ctypes.PyDLL(None).usleep  # unlike CDLL's, it keeps the GIL


class Workload:
    """Holds the GIL, and knows for how long it did, of how long in all."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.held = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def hold(self, seconds: float) -> None:
        """Hold the GIL."""
        before = self.elapsed
        _usleep(round(seconds * 1e6))
        self.held += self.elapsed - before

    def run(self, seconds: float, hold: float, gap: float) -> None:
        """Hold the GIL again and again, with gaps between the holds."""
        end = self.elapsed + seconds
        while self.elapsed < end:
            self.hold(hold)
            time.sleep(gap)
