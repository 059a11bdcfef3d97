"""What a sampler knows at one moment."""

from __future__ import annotations

import marshal
from typing import Any, NamedTuple


class Held(NamedTuple):
    """For how long a function of a thread has held the GIL.

    Attributes:
        thread: its name; `_other` for the rest.
        function: `code.function.name`; empty where functions are not asked for, `_other` for the rest.
        seconds: so far; never decreases.
    """

    thread: str
    function: str
    seconds: float


class Stall(NamedTuple):
    """A hold of the GIL that is longer than the threshold.

    Attributes:
        seconds: so far, or in all.
        thread: the holder's name.
        native_id: the holder's thread id, as the operating system has it.
        function: `code.function.name` of the innermost call; empty where it is not known.
        file: its source file; empty where it is not known.
        line: the line that it is at; None where it is not known.
        stack: as in a traceback, the innermost call last.
    """

    seconds: float
    thread: str
    native_id: int
    function: str = ""
    file: str = ""
    line: int | None = None
    stack: str = ""


class Snapshot(NamedTuple):
    """What a sampler knows at one moment. Only the observer knows more than the first three.

    Attributes:
        contention: share of the last window in which a thread that asked for the GIL had to wait, in [0, 1].
        blocked: seconds since the start in which a thread that asked for the GIL had to wait; never decreases.
        free: the other seconds observed; never decreases.
        waiting: threads that wait for the GIL.
        wait_time: thread-seconds waited so far; never decreases.
        switches: how often the GIL went to another thread; never decreases.
        stalls: holds longer than the threshold so far, one in progress included; never decreases.
        stall: the one in progress; None also where there is none.
        held: by whom the GIL was held; adds up to `blocked`, but for the last seconds of those that held it little.
    """

    contention: float
    blocked: float
    free: float
    waiting: int | None = None
    wait_time: float | None = None
    switches: int | None = None
    stalls: int | None = None
    stall: Stall | None = None
    held: tuple[Held, ...] = ()

    def after(self, earlier: Snapshot | None) -> Snapshot:
        """The snapshot with the totals of an earlier one, where the sampler does not know them, but another one did."""
        if earlier is None or self.held:
            return self
        return self._replace(
            wait_time=earlier.wait_time if self.wait_time is None else self.wait_time,
            switches=earlier.switches if self.switches is None else self.switches,
            stalls=earlier.stalls if self.stalls is None else self.stalls,
            held=earlier.held,
        )

    def dumps(self) -> bytes:
        """The snapshot as bytes, for another interpreter of this process."""
        parts: list[Any] = list(self[:-2])
        parts.append(self.stall and tuple(self.stall))
        parts.append(list(map(tuple, self.held)))
        return marshal.dumps(parts)

    @staticmethod
    def loads(data: bytes) -> Snapshot:
        """The snapshot that `dumps` made bytes of."""
        numbers: Any
        *numbers, stall, held = marshal.loads(data)  # noqa: S302 - it comes from this process
        return Snapshot(*numbers)._replace(stall=stall and Stall(*stall), held=tuple(Held(*one) for one in held))
