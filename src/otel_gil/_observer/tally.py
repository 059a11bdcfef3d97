"""What the looks at the GIL amount to: pure arithmetic, with no clock of its own.

The observer looks at exponentially distributed moments, which see time averages (PASTA): the share of the looks that
find the GIL locked is the share of time in which it is, and so it is with a holder, and with the mean number of those
that wait. As in `otel_gil._samplers.estimator`, the time between two looks is apportioned by the looks before it, of
which the latest count most, each being worth the mean of the time that it ended. So nothing is ever taken back, blocked
+ free is the time observed, and what holders held adds up to what was blocked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_gil._records.holders import Holder, Holders
from otel_gil._records.names import UNKNOWN
from otel_gil._samplers import estimator
from otel_gil._snapshot import Snapshot

if TYPE_CHECKING:
    from otel_gil._snapshot import Stall

_STOPPED = 0.25
"""Seconds that a look can be late on a busy machine. What is beyond is not observed: the process was stopped."""

_FORGOTTEN = 1e-6
"""A weight that makes no difference."""

Seen = tuple[int, str]
"""The native thread id of a holder, and the function that it runs."""

NOBODY: Seen = (0, "")
"""A holder that is not asked for."""


class Tally:
    """Adds up looks.

    Args:
        now: the moment of the start.
        window: seconds that the contention is taken over.
        since: totals to go on from.
        functions: whether holders have functions.
    """

    def __init__(self, now: float, window: float, since: Snapshot | None = None, *, functions: bool = True) -> None:
        self._window = window
        self._resolution = window / 40
        since = since or Snapshot(0.0, 0.0, 0.0)
        self._blocked, self._free = since.blocked, since.free
        self._wait_time = since.wait_time or 0.0
        self._history = [(self._blocked, self._free)]
        self._holders = Holders(since.held, now=now, functions=functions)
        self._names: dict[int, str] = {}
        self._unnamed: dict[Seen, float] = {}
        self._now = self._looked = now
        self._until = now + _STOPPED
        self._looks = 0
        self._last: tuple[Seen | None, int | None] = (None, None)
        self._run = 0
        self._share = 0.0
        self._waiting = 0.0
        self._weights: dict[Seen, float] = {}

    @property
    def pace(self) -> int:
        """How many sampling intervals the mean time up to the next look lasts."""
        return estimator.SLOW if self._run >= estimator.AGREEING else 1

    def look(self, now: float, sleep: float, pace: int, holder: Seen | None, waiting: int | None) -> None:
        """Enter what was seen.

        Args:
            now: the moment.
            sleep: seconds from the last look to this one, as they were meant to be.
            pace: sampling intervals that the mean sleep lasted.
            holder: who had the GIL; None where nobody had it.
            waiting: how many waited; None where that can't be read.
        """
        self._until = self._looked + sleep + _STOPPED
        self.advance(now)
        self._now = self._looked = now
        locked = holder is not None
        gain = pace / estimator.MEMORY if self._looks else 1.0
        self._looks += 1
        keep = 1 - gain
        self._share += gain * (locked - self._share)
        self._waiting += gain * ((waiting or 0) - self._waiting)
        self._weights = {seen: keep * weight for seen, weight in self._weights.items() if keep * weight > _FORGOTTEN}
        if holder is not None:
            self._weights[holder] = self._weights.get(holder, 0.0) + gain
        seen = (holder, waiting)
        self._run = self._run + 1 if seen == self._last else 1
        self._last = seen

    def advance(self, now: float) -> None:
        """Apportion the time up to now, as far as it is known that the process was not stopped."""
        passed = min(now, self._until) - self._now
        if passed <= 0:
            return
        self._now += passed
        if not self._looks:
            return
        self._blocked += self._share * passed
        self._free += (1 - self._share) * passed
        self._wait_time += self._waiting * passed
        for seen, weight in self._weights.items():
            self._credit(seen, weight * passed)
        self._holders.settle(now)
        if self._blocked + self._free > sum(self._history[-1]) + self._resolution:
            self._history.append((self._blocked, self._free))
            start = self._blocked + self._free - self._window
            while len(self._history) > 1 and sum(self._history[1]) <= start:
                del self._history[0]

    def name(self, names: dict[int, str]) -> None:
        """Learn the names of all threads there are, by native id. Holders that had none until now are credited."""
        recent = {native_id for native_id, _ in self._weights}
        self._names = {native_id: name for native_id, name in self._names.items() if native_id in recent} | names
        unnamed, self._unnamed = self._unnamed, {}
        for (native_id, function), seconds in unnamed.items():
            if native_id in recent or native_id in names:
                self._credit((native_id, function), seconds)
            else:  # it has ended, and nobody will tell its name any more
                self._holders.credit((UNKNOWN, function), seconds)

    def thread(self, native_id: int) -> str | None:
        """The name of a thread; None while it is not known."""
        return self._names.get(native_id)

    def snapshot(self, switches: int, waiting: int | None, stalls: int, stall: Stall | None) -> Snapshot | None:
        """What is known now; None before anything is."""
        now = (self._blocked, self._free)
        contention = estimator.contention(self._history, now, 0.0, self._window)
        if contention is None:
            return None
        wait_time = None if waiting is None else self._wait_time
        held = self._holders.held()
        return Snapshot(contention, *now, waiting, wait_time, switches, stalls, stall, held)

    def _credit(self, seen: Seen, seconds: float) -> None:
        if seen == NOBODY:
            return
        native_id, function = seen
        name = self._names.get(native_id)
        if name is None:
            self._unnamed[seen] = self._unnamed.get(seen, 0.0) + seconds
        else:
            holder: Holder = (name, function)
            self._holders.credit(holder, seconds)
