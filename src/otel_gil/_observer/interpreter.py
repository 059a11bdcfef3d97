"""The main interpreter as it is in memory: its GIL, who holds it, and what that thread runs.

Nothing here stops what it looks at, so any of it can change meanwhile: what is read can be a mixture of before and
after, or not be there any more. Each reading is checked as far as it can be, and OSError where it makes no sense.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from otel_gil._observer import layout, lines

if TYPE_CHECKING:
    from otel_gil._observer.memory import Memory

_INTERPRETERS = 1000  # at most, that are searched for the main one
_FRAMES = 200  # at most, of a stack
_LONGEST_NAME = 1000
_LONGEST_TABLE = 1 << 20

_NEITHER_THREAD_NOR_GENERATOR = 3
"""`owner` of a frame that is the interpreter's own, and runs no code of the user's, is this or more."""

_TAGS = 0x7  # CPython 3.14 keeps flags in the lowest bits of what a frame refers to

_LOCKED = 8  # the lowest byte of `locked`, in what is read of the GIL

_UNLIKELY_MANY = 1 << 20


class Gil(NamedTuple):
    """The GIL while a thread has it.

    Attributes:
        holder: address of that thread's state.
        switches: how often it went to another thread.
        waiting: threads that wait for it; None where that can't be read.
    """

    holder: int
    switches: int
    waiting: int | None


class Thread(NamedTuple):
    """A thread at one moment.

    Attributes:
        native_id: its id, as the operating system has it.
        frame: address of its innermost frame; 0 where it runs no Python code.
    """

    native_id: int
    frame: int


class Frame(NamedTuple):
    """A frame at one moment.

    Attributes:
        code: address of the code object.
        instruction: address of the instruction that it is at.
        previous: address of the caller's frame; 0 where there is none.
    """

    code: int
    instruction: int
    previous: int


class Code(NamedTuple):
    """A function, as its code object has it."""

    filename: str
    qualname: str


class Interpreter:
    """Reads the main interpreter.

    Args:
        memory: of this process.
        runtime: address of `_PyRuntime`.
        version: `sys.hexversion`.
        code_type: address of the type of code objects in the main interpreter.
        waiters: offset of the count of waiting threads, whose lowest 3 bits are something else, in a condition
            variable of the C library; None if not known.

    Raises:
        OSError: this interpreter can't be read.
        ValueError: it is not as it should be, and how.
    """

    def __init__(self, memory: Memory, runtime: int, version: int, code_type: int, waiters: int | None) -> None:
        self._memory = memory
        self._offsets = at = layout.offsets(memory.read(runtime, layout.SIZE), version)
        self._code_type = code_type
        self._main = self._find_main(memory.word(runtime + at["runtime_state.interpreters_head"]))
        gil = memory.word(self._main + at["interpreter_state.ceval_gil"])
        start = at["interpreter_state.gil_runtime_state"]
        if gil != self._main + start:
            raise ValueError("the GIL is not in the main interpreter")
        # As in struct _gil_runtime_state: last_holder, locked, switch_number, cond.
        self._address = self._main + at["interpreter_state.gil_runtime_state_holder"]
        if (
            at["interpreter_state.gil_runtime_state_locked"] - at["interpreter_state.gil_runtime_state_holder"]
            != _LOCKED
        ):
            raise ValueError("the GIL is laid out in an unknown way")
        self._struct = struct.Struct("=Q8xQ" if waiters is None else f"=Q8xQ{waiters}xI")
        thread = [at[f"thread_state.{name}"] for name in ("interp", "current_frame", "native_thread_id")]
        self._thread_struct = _fields(*thread)
        frame = [at[f"interpreter_frame.{name}"] for name in ("executable", "previous", "instr_ptr")]
        self._frame_struct = _fields(*frame)
        self._owner = at["interpreter_frame.owner"]

    def _find_main(self, head: int) -> int:
        for _ in range(_INTERPRETERS):
            if not self._memory.word(head + self._offsets["interpreter_state.id"]):
                return head
            head = self._memory.word(head + self._offsets["interpreter_state.next"])
        raise ValueError("there is no main interpreter")

    def look(self) -> bytes:
        """The GIL now, for `gil`.

        Raises:
            OSError: it can't be read.
        """
        return self._memory.read(self._address, self._struct.size)

    def gil(self, look: bytes | None = None) -> Gil | None:
        """The GIL as it was seen, now by default; None where no thread had it.

        Raises:
            OSError: it can't be read.
        """
        look = look or self.look()
        if look[_LOCKED] != 1:
            return None
        holder, switches, *waiters = self._struct.unpack(look)
        waiting = waiters[0] >> 3 if waiters and waiters[0] >> 3 < _UNLIKELY_MANY else None
        return Gil(holder, switches, waiting)

    def switches(self, look: bytes) -> int:
        """How often the GIL had gone to another thread when it was seen."""
        return int(self._struct.unpack(look)[1])

    @property
    def counts_waiting(self) -> bool:
        """Whether the number of threads that wait can be read."""
        return len(self._struct.unpack(bytes(self._struct.size))) > 2  # noqa: PLR2004

    def thread(self, state: int) -> Thread:
        """The thread of a thread state, of whatever interpreter shares the GIL.

        Raises:
            OSError: there is no such thread any more.
        """
        interp, frame, native_id = self._thread_struct.unpack(self._memory.read(state, self._thread_struct.size))
        if interp != self._main and self._memory.word(interp + self._offsets["interpreter_state.ceval_gil"]) != (
            self._main + self._offsets["interpreter_state.gil_runtime_state"]
        ):
            raise OSError(f"no thread state at {state:#x}")
        return Thread(native_id, frame)

    def frame(self, address: int) -> Frame | None:
        """The frame there, or that of the nearest caller that runs Python code; None where there is none.

        Raises:
            OSError: there is no frame any more.
        """
        for _ in range(_FRAMES):
            if not address:
                return None
            found = self._memory.read(address, self._owner + 1)
            code, previous, instruction = self._frame_struct.unpack_from(found)
            if found[self._owner] < _NEITHER_THREAD_NOR_GENERATOR:
                return Frame(code & ~_TAGS, instruction, previous)
            address = previous
        raise OSError("the frames go round in circles")

    def code(self, address: int) -> Code:
        """The function of a code object.

        Raises:
            OSError: there is no code object any more.
        """
        if self._memory.word(address + self._offsets["pyobject.ob_type"]) != self._code_type:
            raise OSError(f"no code object at {address:#x}")
        filename, qualname = (
            self._text(self._memory.word(address + self._offsets[f"code_object.{name}"]))
            for name in ("filename", "qualname")
        )
        return Code(filename, qualname)

    def line(self, frame: Frame) -> int | None:
        """The line of the source that a frame is at; None where it is not known.

        Raises:
            OSError: there is no code object any more.
        """
        at = self._offsets
        table = self._bytes(self._memory.word(frame.code + at["code_object.linetable"]))
        first = struct.unpack("=i", self._memory.read(frame.code + at["code_object.firstlineno"], 4))[0]
        return lines.line(table, first, frame.instruction - frame.code - at["code_object.co_code_adaptive"])

    def stack(self, thread: Thread) -> list[Frame]:
        """The frames of a thread, the innermost first, as far as they can be read."""
        frames: list[Frame] = []
        address = thread.frame
        try:
            while len(frames) < _FRAMES and (frame := self.frame(address)):
                frames.append(frame)
                address = frame.previous
        except OSError:
            pass
        return frames

    def _text(self, address: int) -> str:
        at = self._offsets
        head = self._memory.read(address, at["unicode_object.asciiobject_size"])
        (length,) = struct.unpack_from("=q", head, at["unicode_object.length"])
        (state,) = struct.unpack_from("=I", head, at["unicode_object.state"])
        kind, compact, ascii_only = state >> 2 & 7, state >> 5 & 1, state >> 6 & 1
        if not 0 <= length <= _LONGEST_NAME or kind not in _ENCODINGS or not compact:
            raise OSError(f"no text at {address:#x}")
        start = address + len(head) + (0 if ascii_only else 16)  # the latter have utf8 and its length before it
        return self._memory.read(start, kind * length).decode(_ENCODINGS[kind], "replace") if length else ""

    def _bytes(self, address: int) -> bytes:
        at = self._offsets
        (size,) = struct.unpack("=q", self._memory.read(address + at["bytes_object.ob_size"], 8))
        if not 0 < size <= _LONGEST_TABLE:
            raise OSError(f"no bytes at {address:#x}")
        return self._memory.read(address + at["bytes_object.ob_sval"], size)


_ENCODINGS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}


def _fields(*offsets: int) -> struct.Struct:
    """64-bit numbers at these offsets, which ascend."""
    parts = []
    end = 0
    for offset in offsets:
        parts.append(f"{offset - end}xQ")
        end = offset + 8
    return struct.Struct("=" + "".join(parts))
