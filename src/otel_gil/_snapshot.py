"""What a sampler knows at one moment."""

from __future__ import annotations

from typing import NamedTuple


class ThreadTime(NamedTuple):
    """For how long a function of a thread has held the GIL, or waited for it.

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
        native_id: the holder's thread id, as the operating system has it; 0 where it is not known.
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
        contended: seconds since the start in which at least one thread waited; never decreases.
        waiting: threads that wait for the GIL.
        wait_time: thread-seconds waited so far; never decreases.
        switches: how often the GIL went to another thread; never decreases.
        stalls: holds longer than the threshold so far, one in progress included; never decreases.
        stall: the one in progress; None also where there is none.
        held: by whom the GIL was held; adds up to `blocked`, but for the last milliseconds of a thread without a name.
        waited: who waited; adds up to `wait_time` likewise. None where that can't be told.
    """

    contention: float
    blocked: float
    free: float
    contended: float | None = None
    waiting: int | None = None
    wait_time: float | None = None
    switches: int | None = None
    stalls: int | None = None
    stall: Stall | None = None
    held: tuple[ThreadTime, ...] = ()
    waited: tuple[ThreadTime, ...] | None = None

    def after(self, earlier: Snapshot | None) -> Snapshot:
        """The snapshot with the totals of an earlier one, where the sampler does not know them, but another one did."""
        if earlier is None or self.held:
            return self
        return self._replace(
            contended=earlier.contended if self.contended is None else self.contended,
            wait_time=earlier.wait_time if self.wait_time is None else self.wait_time,
            switches=earlier.switches if self.switches is None else self.switches,
            stalls=earlier.stalls if self.stalls is None else self.stalls,
            held=earlier.held,
            waited=earlier.waited if self.waited is None else self.waited,
        )
