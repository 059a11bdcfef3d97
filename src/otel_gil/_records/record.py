"""The record of a process: what its recorder knows, in memory and in a file of the same form.

The file is written by one thread, the recorder's, and read by any number of processes of the same user without a lock.
Numbers are in the byte order of the machine, moments are seconds of its monotonic clock, texts are UTF-8.

=========  ==================================================================================================
offset     what
=========  ==================================================================================================
0          head: written once, when the record is made
8192       two states, 16384 bytes each, written in turn: the one that is whole and of the higher sequence counts
40960      256 names of threads, 256 bytes each
106496     512 functions, 512 bytes each; the file ends with them
=========  ==================================================================================================

* head: magic ``otel-gil``, version and size (u32), pid and that of the parent (u64), seconds since 1970, mean seconds
  between two looks, window of the contention (f64), version of Python, nothing (u32), command (256 bytes, ended by
  a zero), sys.path (7168, one a line, ended by a zero).
* state: checksum (CRC-32) of all that follows, length (u32), sequence (u64); the moment of the last look, and that up
  to which its weights hold (f64); seconds blocked, free, contended, and thread-seconds waited up to that moment, and a
  weight for blocked, contended and waited (f64): the seconds to add for each second that has passed since; switches,
  stalls, looks, and readings that failed (u64); threads that wait, what is known (1: holders, 2: how many wait, 4: who
  waits), rows of holders, rows of waiters, points of history, calls of the stack (u32); of the stall in progress
  the moment at which it began (f64, 0 for none), the native identifier of its thread (u64), slot and generation of
  the thread's name (u16), nothing (u32); 48 points of history: seconds blocked and free (f64); 64 calls, the
  innermost first: slot and generation of the function (u16), line (i32, 0 where it is not known); the rows.
* row: identifier, which is used once only (u32), slots of name and function, their generations (u16), not 0 where the
  name is provisional (u32), seconds and weight (f64).
* name: checksum of what follows (u32), generation, length (u16), text.
* function: checksum of what follows (u32), generation, length of the file's name (u16), first line (i32), length of
  the function's name (u32), name of the file (240 bytes), qualified name (256).

A slot is used again when nothing refers to it, with the next generation.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from otel_gil._records import names
from otel_gil._records.series import ThreadSeries
from otel_gil._samplers import estimator
from otel_gil._snapshot import Snapshot, Stall, ThreadTime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAGIC = b"otel-gil"
VERSION = 1

HEAD = struct.Struct("=8sIIQQdddII256s7168s")
STATES = 8192
STATE_SIZE = 16384
NAMES = STATES + 2 * STATE_SIZE
NAME_SIZE = 256
FUNCTIONS = NAMES + 256 * NAME_SIZE
FUNCTION_SIZE = 512
SIZE = FUNCTIONS + 512 * FUNCTION_SIZE

STATE = struct.Struct("=IIQ9dQQQQ6IdQHHI")
_POINTS = 48
_CALLS = 64
_HISTORY = struct.Struct("=dd")
_CALL = struct.Struct("=HHi")
ROW = struct.Struct("=IHHHHIdd")
ROWS = STATE.size + _POINTS * _HISTORY.size + _CALLS * _CALL.size
"""Where the rows begin in a state."""

_ROW_SECONDS = struct.Struct("=I8xIdd")
"""Of a row what changes: most don't."""

_NAME = struct.Struct("=IHH248s")
_FUNCTION = struct.Struct("=IHHiI240s256s")

_KNOWS_HOLDERS, _KNOWS_WAITING, _KNOWS_WAITERS = 1, 2, 4

_NEGLIGIBLE = 1e-6
"""Seconds that rounding can make."""

_MOST_KEPT = 2000
"""Names that are kept, of each kind."""

_Kept = TypeVar("_Kept")


class Source(Protocol):
    """Where a record is read from."""

    def state(self) -> bytes:
        """The newest state that is whole.

        Raises:
            OSError: there is none.
        """

    def read(self, offset: int, size: int) -> bytes:
        """A part of the rest.

        Raises:
            OSError: it can't be read.
        """


class Function(NamedTuple):
    """A function, as its code object has it."""

    file: str
    name: str


class State(NamedTuple):
    """The numbers of a state, as they stand in it; see above."""

    checksum: int
    length: int
    sequence: int
    now: float
    until: float
    blocked: float
    free: float
    contended: float
    waited: float
    blocked_weight: float
    contended_weight: float
    waited_weight: float
    switches: int
    stalls: int
    looks: int
    failed: int
    waiting: int
    known: int
    held_rows: int
    wait_rows: int
    points: int
    calls: int
    stall_since: float
    stall_thread: int
    stall_name: int
    stall_generation: int
    reserved: int


class RecordReader:
    """Reads a record again and again, and gives each time what is known at that moment.

    Args:
        source: where the record is.
        window: seconds that the contention is taken over.
        paths: gives the `sys.path` of its process.
        now: the moment of the first reading.
        since: what holders and waiters had before the record began.
        functions: whether functions are told.
    """

    def __init__(  # noqa: PLR0913
        self,
        source: Source,
        window: float,
        paths: Callable[[], Sequence[str]],
        now: float,
        since: Snapshot | None = None,
        *,
        functions: bool = True,
    ) -> None:
        self._source = source
        self._window = window
        self._paths = paths
        held, waited = (since.held, since.waited or ()) if since else ((), ())
        self._held = _Attribution(held, now, since.blocked if since else 0.0, functions=functions)
        self._waited = _Attribution(waited, now, (since and since.wait_time) or 0.0, functions=functions)
        self._functions_told = functions
        self._last = [0.0, 0.0, 0.0, 0.0]
        self._names: dict[tuple[int, int], str] = {}
        self._functions: dict[tuple[int, int], Function] = {}
        self._labels: dict[tuple[int, int], str] = {}

    def read(self, now: float) -> Snapshot | None:
        """What is known at this moment of the monotonic clock; None before anything is.

        Raises:
            OSError: the record can't be read.
        """
        data = self._source.state()
        state = State._make(STATE.unpack_from(data))
        passed = max(min(now, state.until) - state.now, 0.0)
        blocked = self._not_less(0, state.blocked + state.blocked_weight * passed)
        free = self._not_less(1, state.free + (1 - state.blocked_weight) * passed if state.looks else state.free)
        history = _HISTORY.iter_unpack(data[STATE.size : STATE.size + state.points * _HISTORY.size])
        contention = estimator.contention(list(history), (blocked, free), 0.0, self._window)
        if contention is None:
            if not blocked + free:
                return None
            contention = 0.0
        knows_waiting = bool(state.known & _KNOWS_WAITING)
        wait_time = self._not_less(2, state.waited + state.waited_weight * passed)
        contended = self._not_less(3, state.contended + state.contended_weight * passed)
        waiters = ROWS + state.held_rows * ROW.size
        held: tuple[ThreadTime, ...] = ()
        waited: tuple[ThreadTime, ...] | None = None
        if state.known & _KNOWS_HOLDERS:
            held = self._held.add(data[ROWS:waiters], passed, blocked, now, self._who)
        if state.known & _KNOWS_WAITERS:
            rows = data[waiters : waiters + state.wait_rows * ROW.size]
            waited = self._waited.add(rows, passed, wait_time, now, self._who)
        return Snapshot(
            contention,
            blocked,
            free,
            contended if knows_waiting else None,
            state.waiting if knows_waiting else None,
            wait_time if knows_waiting else None,
            state.switches,
            state.stalls,
            self._stall(state, data, now) if state.stall_since else None,
            held,
            waited,
        )

    def thread_name(self, slot: int, generation: int) -> str:
        """The name of a thread."""
        name = self._names.get((slot, generation))
        if name is None:
            _, found, length, text = _NAME.unpack(self._source.read(NAMES + slot * NAME_SIZE, NAME_SIZE))
            name = text[:length].decode(errors="replace") if found == generation else names.UNKNOWN
            self._names = _bounded(self._names)
            self._names[slot, generation] = name
        return name

    def stack(self, calls: Sequence[tuple[int, int, int]]) -> tuple[str, Function, int | None, str]:
        """The function, the code and the line of the innermost call, and the stack as in a traceback.

        Args:
            calls: slot and generation of the function, and the line; the innermost first.
        """
        if not calls:
            return "", Function("", ""), None, ""
        lines = []
        for slot, generation, line in reversed(calls):
            function = self._function(slot, generation)
            lines.append(f'  File "{function.file}", line {line or "?"}, in {function.name}\n')
        slot, generation, line = calls[0]
        return self._label(slot, generation), self._function(slot, generation), line or None, "".join(lines)

    def _not_less(self, total: int, seconds: float) -> float:
        # A state in a file is some looks old, and what it foretold since then may have been too much.
        self._last[total] = max(self._last[total], seconds)
        return self._last[total]

    def _stall(self, state: State, data: bytes, now: float) -> Stall:
        start = STATE.size + _POINTS * _HISTORY.size
        calls = list(_CALL.iter_unpack(data[start : start + state.calls * _CALL.size]))
        label, function, line, stack = self.stack(calls)
        thread = self.thread_name(state.stall_name, state.stall_generation)
        return Stall(max(now - state.stall_since, 0.0), thread, state.stall_thread, label, function.file, line, stack)

    def _who(self, name: int, name_generation: int, function: int, function_generation: int) -> tuple[str, str]:
        thread = self.thread_name(name, name_generation)
        return thread, self._label(function, function_generation) if self._functions_told else ""

    def _label(self, slot: int, generation: int) -> str:
        """`code.function.name`."""
        label = self._labels.get((slot, generation))
        if label is None:
            found = self._function(slot, generation)
            label = names.function(found.file, found.name, self._paths()) if found.file else found.name
            label = label[-names.LONGEST :]
            self._labels = _bounded(self._labels)
            self._labels[slot, generation] = label
        return label

    def _function(self, slot: int, generation: int) -> Function:
        function = self._functions.get((slot, generation))
        if function is None:
            parts = _FUNCTION.unpack(self._source.read(FUNCTIONS + slot * FUNCTION_SIZE, FUNCTION_SIZE))
            _, found, file_length, _, name_length, file, name = parts
            function = Function("", names.UNKNOWN)
            if found == generation:
                function = Function(
                    file[:file_length].decode(errors="replace"), name[:name_length].decode(errors="replace")
                )
            self._functions = _bounded(self._functions)
            self._functions[slot, generation] = function
        return function


class _Attribution:
    """What rows amount to: the seconds of each are credited when they are seen, and what no row has to the rest.

    A row that is gone, in place of which another one is, may have had seconds that nobody has seen. That of a thread
    whose name is provisional is credited when it has its name.

    Args:
        since: the series to go on from.
        now: the moment of the start.
        total: seconds that were credited before.
        functions: whether there are functions.
    """

    def __init__(self, since: tuple[ThreadTime, ...], now: float, total: float, *, functions: bool) -> None:
        self._series = ThreadSeries(since, now=now, functions=functions)
        self._credited = total
        self._seen: dict[int, float] = {}
        self._rows = b""
        self._moving: list[tuple[int, tuple[int, int, float, float]]] = []

    def add(
        self,
        rows: bytes,
        passed: float,
        total: float,
        now: float,
        who: Callable[[int, int, int, int], tuple[str, str]],
    ) -> tuple[ThreadTime, ...]:
        """The series after these rows.

        Args:
            rows: all there are.
            passed: seconds for which their weights hold.
            total: seconds that all rows that ever were had together.
            now: the moment.
            who: gives the names that slots and generations stand for.
        """
        if rows != self._rows:
            found = list(enumerate(_ROW_SECONDS.iter_unpack(rows)))
            self._rows = b""  # until all are credited
        else:
            found = self._moving  # most callbacks of a collection find what the first has found
        seen = self._seen
        provisional = 0.0
        for n, (row, pending, last, weight) in found:
            seconds = last + weight * passed
            before = seen.get(row, 0.0)
            if pending:
                provisional += seconds
            elif seconds > before:
                _, name, function, name_generation, function_generation, *_ = ROW.unpack_from(rows, n * ROW.size)
                self._series.credit(who(name, name_generation, function, function_generation), seconds - before)
                self._credited += seconds - before
                seen[row] = seconds
        if not self._rows:
            self._rows = rows
            self._moving = [(n, times) for n, times in found if times[1] or times[3]]  # pending, or with a weight
        if len(seen) > _MOST_KEPT:
            present = {row for row, *_ in _ROW_SECONDS.iter_unpack(rows)}
            self._seen = {row: seconds for row, seconds in seen.items() if row in present}
        rest = total - self._credited - provisional
        if rest > _NEGLIGIBLE:
            self._series.credit_rest(rest)
            self._credited += rest
        self._series.settle(now)
        return self._series.times()


def _bounded(cache: dict[tuple[int, int], _Kept]) -> dict[tuple[int, int], _Kept]:
    return cache if len(cache) < _MOST_KEPT else {}
