"""Which holds of the GIL are too long: pure logic, with no clock of its own.

That the GIL is held does not say that it would not be given: a thread that runs Python code gives it to whoever asks,
and nobody may have asked. So a hold that may become too long is put to the test: half the threshold into it a thread
asks for the GIL. It is too long if nobody, neither that thread nor another one, has got it when the threshold is over,
and a quarter of it since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_gil._observer.interpreter import Gil


class Holds:
    """Follows the hold that is in progress.

    Args:
        threshold: seconds after which a hold is too long.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._hold: tuple[int, int] | None = None
        self._since = 0.0
        self._asked: float | None = None

    @property
    def asked(self) -> bool:
        """Whether a thread waits for the GIL because it was told to ask."""
        return self._asked is not None

    def look(self, now: float, gil: Gil | None) -> float:
        """Enter what was seen, and give the seconds of a hold that is too long; 0 where there is none.

        Args:
            now: the moment.
            gil: as it was then; None where no thread had it.
        """
        hold = (gil.holder, gil.switches) if gil else None
        if gil is None or hold != self._hold:
            self._hold = hold
            self._since = now
            self._asked = None
            return 0.0
        # On a machine without a core for it, it may not have come to ask.
        tested = self._asked is not None and now - self._asked >= self._threshold / 4 and gil.waiting != 0
        held = now - self._since
        return held if tested and held > self._threshold else 0.0

    def ask(self, now: float) -> bool:
        """Whether a thread must ask for the GIL now, which it will then."""
        if self._hold is None or self._asked is not None or now - self._since < self._threshold / 2:
            return False
        self._asked = now
        return True
