"""Who held the GIL, or waited for it, in a bounded number of series that never decrease: pure arithmetic.

A function of a thread gets a series of its own when it has had much of the time lately, and loses it to a busier one
when there are no more. What has none is the rest, `_other`. A series goes on from where it was if it ever comes back,
and what once went to the rest stays there, so that nothing is ever taken back.
"""

from __future__ import annotations

from otel_gil._snapshot import ThreadTime

OTHER = "_other"

MOST = 20
"""Series that are given at once, beside the rest."""

_EVER = 10 * MOST
"""Series that are given in the life of a process."""

_CANDIDATES = 10 * MOST

_WORTH = 0.1
"""Recent seconds to get a series."""

_BUSIER = 2
"""How many times as busy as the least busy a function must be to get its series."""

_SETTLED = 5.0
"""Seconds after which what has no series goes to the rest."""

_FADING = 0.944
"""What time counts in what is recent after that: half after a minute."""

Who = tuple[str, str]
"""Thread name and function name."""


class ThreadSeries:
    """Credits threads and functions with time.

    Args:
        since: what to go on from.
        now: the moment of the start.
        functions: whether there are functions, so that the rest has one, too.
    """

    def __init__(self, since: tuple[ThreadTime, ...] = (), *, now: float = 0.0, functions: bool = True) -> None:
        self._seconds = {(time.thread, time.function): time.seconds for time in since if time.thread}
        self._rest = OTHER if functions else ""
        self._other = self._seconds.pop((OTHER, self._rest), 0.0)
        self._recent = dict.fromkeys(self._seconds, 0.0)
        self._candidates: dict[Who, tuple[float, float]] = {}  # recent, and not yet in any series
        self._settled = now

    def credit(self, who: Who, seconds: float) -> None:
        """Add seconds."""
        if who in self._recent:
            self._recent[who] += seconds
            self._seconds[who] += seconds
            return
        recent, unsettled = self._candidates.pop(who, (0.0, 0.0))
        recent += seconds
        unsettled += seconds
        if recent >= _WORTH and self._admit(who, recent):
            self._recent[who] = recent
            self._seconds[who] = self._seconds.get(who, 0.0) + unsettled
            return
        self._candidates[who] = (recent, unsettled)  # the last, as the latest
        if len(self._candidates) > _CANDIDATES:
            _, unsettled = self._candidates.pop(next(iter(self._candidates)))
            self._other += unsettled

    def credit_rest(self, seconds: float) -> None:
        """Add seconds of nobody in particular."""
        self._other += seconds

    def settle(self, now: float) -> None:
        """Let what is recent fade, and give to the rest what has got no series."""
        periods = int((now - self._settled) / _SETTLED)
        if periods <= 0:
            return
        self._settled = now
        fading = _FADING**periods
        self._other += sum(unsettled for _, unsettled in self._candidates.values())
        self._recent = {who: fading * recent for who, recent in self._recent.items()}
        self._candidates = {
            who: (fading * recent, 0.0) for who, (recent, _) in self._candidates.items() if recent > _WORTH / 100
        }

    def times(self) -> tuple[ThreadTime, ...]:
        """The series, that of the longest time first, and the rest."""
        series = [ThreadTime(*who, self._seconds[who]) for who in self._recent]
        series.sort(key=lambda time: -time.seconds)
        return (*series, ThreadTime(OTHER, self._rest, self._other)) if self._other else tuple(series)

    def _admit(self, who: Who, recent: float) -> bool:
        if who not in self._seconds and len(self._seconds) >= _EVER:
            return False
        if len(self._recent) >= MOST:
            least = min(self._recent, key=self._recent.__getitem__)
            if recent < _BUSIER * self._recent[least]:
                return False
            del self._recent[least]
        return True
