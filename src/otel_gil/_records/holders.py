"""Who held the GIL, in a bounded number of series that never decrease: pure arithmetic.

A function gets a series of its own when it has held the GIL for a while, and loses it to a busier one when there are no
more. What has none is the rest, `_other`. A series goes on from where it was if it ever comes back, and what once went
to the rest stays there, so that nothing is ever taken back.
"""

from __future__ import annotations

from otel_gil._snapshot import Held

OTHER = "_other"

MOST = 20
"""Series that are given at once, beside the rest."""

_EVER = 10 * MOST
"""Series that are given in the life of a process."""

_CANDIDATES = 10 * MOST

_WORTH = 0.1
"""Recent seconds for which the GIL was held, to get a series."""

_BUSIER = 2
"""How many times as busy as the least busy a function must be to get its series."""

_SETTLED = 5.0
"""Seconds after which what has no series goes to the rest."""

_FADING = 0.944
"""What a hold counts in what is recent after that time: half after a minute."""

Holder = tuple[str, str]
"""Thread name and function name."""


class Holders:
    """Credits holders with time.

    Args:
        since: what to go on from.
        now: the moment of the start.
        functions: whether holders have functions, so that the rest has, too.
    """

    def __init__(self, since: tuple[Held, ...] = (), *, now: float = 0.0, functions: bool = True) -> None:
        self._seconds = {(held.thread, held.function): held.seconds for held in since}
        self._rest = OTHER if functions else ""
        self._other = self._seconds.pop((OTHER, self._rest), 0.0)
        self._recent = dict.fromkeys(self._seconds, 0.0)
        self._candidates: dict[Holder, tuple[float, float]] = {}  # recent, and not yet in any series
        self._settled = now

    def credit(self, holder: Holder, seconds: float) -> None:
        """Add seconds for which it held the GIL."""
        if holder in self._recent:
            self._recent[holder] += seconds
            self._seconds[holder] += seconds
            return
        recent, unsettled = self._candidates.pop(holder, (0.0, 0.0))
        recent += seconds
        unsettled += seconds
        if recent >= _WORTH and self._admit(holder, recent):
            self._recent[holder] = recent
            self._seconds[holder] = self._seconds.get(holder, 0.0) + unsettled
            return
        self._candidates[holder] = (recent, unsettled)  # the last, as the latest
        if len(self._candidates) > _CANDIDATES:
            _, unsettled = self._candidates.pop(next(iter(self._candidates)))
            self._other += unsettled

    def settle(self, now: float) -> None:
        """Let what is recent fade, and give to the rest what has got no series."""
        if now - self._settled < _SETTLED:
            return
        self._settled = now
        self._other += sum(unsettled for _, unsettled in self._candidates.values())
        self._recent = {holder: _FADING * recent for holder, recent in self._recent.items()}
        self._candidates = {
            holder: (_FADING * recent, 0.0) for holder, (recent, _) in self._candidates.items() if recent > _WORTH / 100
        }

    def held(self) -> tuple[Held, ...]:
        """The series, that of the longest time first, and the rest."""
        series = [Held(*holder, self._seconds[holder]) for holder in self._recent]
        series.sort(key=lambda held: -held.seconds)
        return (*series, Held(OTHER, self._rest, self._other)) if self._other else tuple(series)

    def _admit(self, holder: Holder, recent: float) -> bool:
        if holder not in self._seconds and len(self._seconds) >= _EVER:
            return False
        if len(self._recent) >= MOST:
            least = min(self._recent, key=self._recent.__getitem__)
            if recent < _BUSIER * self._recent[least]:
                return False
            del self._recent[least]
        return True
