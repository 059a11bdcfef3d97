"""The main interpreter as it is found in memory: what threads run, who has the GIL, and nonsense.

What the GIL is like is read from a second interpreter, as the observer does it: whoever has this one's GIL sees only
itself. What a thread runs is read here, while that thread stands still.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import inspect
import marshal
import os
import random
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest

from otel_gil._samplers import observer

if reason := observer.unavailable():
    pytest.skip(reason, allow_module_level=True)

from otel_gil import _interpreter
from otel_gil._observer.interpreter import Code, Frame, Interpreter, Thread
from otel_gil._observer.memory import Memory

WHAT = (_interpreter.runtime(), sys.hexversion, id(CodeType), observer._waiters())

_this_thread = ctypes.pythonapi.PyThreadState_Get
_this_thread.restype = ctypes.c_void_p


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    memory.close()


@pytest.fixture
def interpreter(memory: Memory) -> Interpreter:
    return Interpreter(memory, *WHAT)


@contextmanager
def standing(function: Callable[[Callable[[], None]], Any]) -> Iterator[tuple[int, int]]:
    """Runs a function in a thread, up to where it calls its argument. The address of the thread's state, and its id."""
    at: list[tuple[int, int]] = []
    go = threading.Lock()

    def stop() -> None:
        at.append((_this_thread(), threading.get_native_id()))
        go.acquire()

    def stands() -> bool:
        frame = sys._current_frames().get(thread.ident or 0)
        return bool(at) and frame is not None and frame.f_lineno == stop.__code__.co_firstlineno + 2

    thread = threading.Thread(target=function, args=[stop])
    with go:
        thread.start()
        end = time.monotonic() + 20
        while not stands():
            assert time.monotonic() < end
            time.sleep(0.001)
        yield at[0]
    thread.join()


def _calls(interpreter: Interpreter, state: int) -> list[tuple[str, int | None]]:
    """Functions and lines up to the one that stops, the innermost last."""
    frames = interpreter.stack(interpreter.thread(state))[::-1]
    calls = [(interpreter.code(frame.code).qualname, interpreter.line(frame)) for frame in frames]
    names = [name for name, _ in calls]
    return calls[names.index("Thread.run") + 1 : names.index("standing.<locals>.stop")]


def _inner(stop: Callable[[], None]) -> int:
    total = 0
    for k in range(3):
        total += k
    stop()
    return total


def _outer(stop: Callable[[], None]) -> int:
    return 1 + (2 * _inner(stop))


def test_functions_and_lines(interpreter: Interpreter) -> None:
    with standing(_outer) as (state, native_id):
        assert interpreter.thread(state).native_id == native_id
        frames = interpreter.stack(interpreter.thread(state))
        codes = [interpreter.code(frame.code) for frame in frames]
        assert Code(__file__, "_inner") in codes
        assert codes[-1] == Code(threading.__file__, "Thread._bootstrap")
        lines = [("_outer", 1), ("_inner", 4)]
        first = [_outer.__code__.co_firstlineno, _inner.__code__.co_firstlineno]
        assert _calls(interpreter, state) == [(name, a + b) for (name, b), a in zip(lines, first, strict=True)]
        assert {frame.code for frame in frames} >= {id(_inner.__code__), id(_outer.__code__)}
        for frame in frames:
            start, end = frame.code, frame.code + 10_000
            assert start < frame.instruction < end
        assert [frame.previous for frame in frames[:-1]].count(0) == 0


def test_as_python_sees_it(interpreter: Interpreter) -> None:
    with standing(_outer) as (state, _):
        thread = next(thread for thread in threading.enumerate() if thread.native_id == interpreter.thread(state)[0])
        assert thread.ident is not None
        python = [
            (frame.frame.f_code.co_filename, frame.frame.f_code.co_qualname, frame.lineno)
            for frame in inspect.getouterframes(sys._current_frames()[thread.ident])
        ]
        frames = interpreter.stack(interpreter.thread(state))
        ours = [(*interpreter.code(frame.code), interpreter.line(frame)) for frame in frames]
    assert ours == python


def test_generators_and_coroutines(interpreter: Interpreter) -> None:
    def generator(stop: Callable[[], None]) -> Iterator[int]:
        yield 1
        stop()
        yield 2

    def delegating(stop: Callable[[], None]) -> Iterator[int]:
        yield from generator(stop)

    async def asynchronous(stop: Callable[[], None]) -> AsyncIterator[int]:
        stop()
        yield 1

    async def coroutine(stop: Callable[[], None]) -> list[int]:
        return [k async for k in asynchronous(stop)]

    prefix = "test_generators_and_coroutines.<locals>."
    with standing(lambda stop: sum(delegating(stop))) as (state, _):
        names = [name for name, _ in _calls(interpreter, state)]
        assert names == [prefix + name for name in ("<lambda>", "delegating", "generator")]
    with standing(lambda stop: asyncio.run(coroutine(stop))) as (state, _):
        calls = _calls(interpreter, state)
        names = [name for name, _ in calls]
        assert names[0] == prefix + "<lambda>"
        assert "BaseEventLoop.run_forever" in names
        assert names[-2:] == [prefix + "coroutine", prefix + "asynchronous"]
        assert calls[-1][1] == asynchronous.__code__.co_firstlineno + 1


def test_called_from_c(interpreter: Interpreter) -> None:
    """Between frames of Python are some of the interpreter's own."""

    def function(stop: Callable[[], None]) -> None:
        def key(_: int) -> int:
            stop()
            return 1

        max(map(lambda _: max([1], key=key), [1]))

    with standing(function) as (state, _):
        name = "test_called_from_c.<locals>.function"
        found = [name for name, _ in _calls(interpreter, state)]
        assert found == [name, f"{name}.<locals>.<lambda>", f"{name}.<locals>.key"]


def test_a_deep_stack(interpreter: Interpreter) -> None:
    """Only its innermost part."""

    def recursive(stop: Callable[[], None], depth: int = 500) -> None:
        if depth:
            recursive(stop, depth - 1)
        else:
            stop()

    with standing(recursive) as (state, _):
        frames = interpreter.stack(interpreter.thread(state))
        assert len(frames) == 200
        assert interpreter.code(frames[-1].code).qualname.endswith(".recursive")


@pytest.mark.parametrize("name", ["f", "größe", "žluťoučký_kůň", "函数", "𝔣𝔲𝔫𝔠", "x𐐀", "ÿ" * 200, "ab" * 499])
@pytest.mark.parametrize("filename", ["/srv/app.py", "/srv/für.py", "/srv/アプリ.py", "/srv/📦/app.py", ""])
def test_names(interpreter: Interpreter, name: str, filename: str) -> None:
    """Of one, two and four bytes a character."""
    namespace: dict[str, Any] = {}
    exec(compile(f"def f(): pass\nf.__code__ = f.__code__.replace(co_qualname={name!r})", filename, "exec"), namespace)
    assert interpreter.code(id(namespace["f"].__code__)) == Code(filename, name)


@pytest.mark.parametrize("name", ["\ud800", "a\udcffb", "😀\udfff"])
def test_names_that_are_no_text(interpreter: Interpreter, name: str) -> None:
    """As of files whose names are not in UTF-8. They are told in UTF-8, which can't have them."""
    code = (lambda: 0).__code__.replace(co_filename=name, co_qualname="f")
    filename, _ = interpreter.code(id(code))
    filename.encode()
    assert len(filename) == len(name)


@pytest.mark.parametrize("name", ["x" * 1001, "x" * 100_000, "函" * 2000])
def test_names_that_no_function_has(interpreter: Interpreter, name: str) -> None:
    with pytest.raises(OSError, match="no text"):
        interpreter.code(id((lambda: 0).__code__.replace(co_qualname=name)))


def test_a_thread_that_has_ended(interpreter: Interpreter) -> None:
    """What is left of it can still be read, or is not there."""
    with standing(_outer) as (state, _):
        frames = interpreter.stack(interpreter.thread(state))
        stack = interpreter.thread(state).frame
    _try(interpreter, state)
    _try(interpreter, stack)
    for frame in frames:
        _try(interpreter, frame.previous)
        _try(interpreter, frame.code, frame.instruction)


# What the GIL is like.

LOOKS = """
import marshal, os, select, time
from otel_gil._observer.interpreter import Interpreter
from otel_gil._observer.memory import Memory

memory = Memory()
interpreter = Interpreter(memory, *what)
seen = set()
os.write(out, b"!")
poll = select.poll()
poll.register(stop)
while not poll.poll(1):
    try:
        look = interpreter.look()
        gil = interpreter.gil(look)
        thread = gil and interpreter.thread(gil.holder)
        frame = gil and interpreter.frame(thread.frame)
        name = interpreter.code(frame.code).qualname if frame else ""
        line = interpreter.line(frame) if frame else None
        again = interpreter.gil()
    except OSError:
        continue
    if not gil:
        seen.add((interpreter.switches(look), None, None, "", None, None))
    elif again and again[:2] == gil[:2]:  # or else it can be a mixture
        at = frame and frame.instruction
        seen.add((gil.switches, thread.native_id, gil.waiting, name, line, at))
memory.close()
found = marshal.dumps(list(seen)[:500])
os.write(out, found)
os.close(out)
"""


class Look(NamedTuple):
    """What another interpreter sees of this one at some moment."""

    switches: int
    native_id: int | None
    waiting: int | None
    function: str
    line: int | None
    instruction: int | None


@contextmanager
def looking() -> Iterator[list[Look]]:
    """Looks at this interpreter from another one. The list is filled at the end."""
    into, out = os.pipe()
    stop, stopping = os.pipe()
    scope = {"what": WHAT, "out": out, "stop": stop}
    thread = threading.Thread(target=_interpreter.run, args=["builtins", "exec", LOOKS, scope])
    thread.start()
    looks: list[Look] = []
    with os.fdopen(into, "rb") as file:
        try:
            assert file.read(1) == b"!"
            yield looks
        finally:
            os.close(stopping)
            looks += [Look(*look) for look in marshal.loads(file.read())]
            thread.join()
            os.close(stop)


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(1000):
            pass


def test_a_thread_that_runs() -> None:
    with looking() as looks:
        _spin(0.3)
    mine = [look for look in looks if look.function == "_spin"]
    first = _spin.__code__.co_firstlineno
    assert {look.native_id for look in mine} == {threading.get_native_id()}
    assert {look.line for look in mine} <= {first + line for line in range(1, 5)}
    assert len({look.instruction for look in mine}) > 1


def test_a_hold_in_a_c_function(hold: Callable[[float], None]) -> None:
    with looking() as looks:
        hold(0.3)
    mine = [look for look in looks if "hold" in look.function]
    assert len({look[3:] for look in mine}) == 1, "at one instruction"
    assert {(look.native_id, look.waiting) for look in mine} <= {
        (threading.get_native_id(), waiting) for waiting in (0, None)
    }
    assert len({look.switches for look in mine}) == 1


def test_a_free_one() -> None:
    with looking() as looks:
        time.sleep(0.1)
    assert None in {look.native_id for look in looks}


@pytest.mark.skipif(observer._waiters() is None, reason="it is not known where the C library counts")
@pytest.mark.parametrize("number", [0, 1, 3])
def test_waiting(hold: Callable[[float], None], number: int) -> None:
    done = False

    def ask() -> None:
        while not done:
            time.sleep(0.001)

    threads = [threading.Thread(target=ask) for _ in range(number)]
    for thread in threads:
        thread.start()
    with looking() as looks:
        hold(0.3)
    done = True
    for thread in threads:
        thread.join()
    waiting = [
        look.waiting for look in looks if look.native_id == threading.get_native_id() and "hold" in look.function
    ]
    assert None not in waiting
    assert max(look or 0 for look in waiting) == number


def test_switches_between_threads() -> None:
    threads = [threading.Thread(target=_spin, args=[0.4]) for _ in range(2)]
    with looking() as looks:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    spinning = [look for look in looks if look.function == "_spin"]
    assert len({look.native_id for look in spinning}) == 2
    switches = [look.switches for look in spinning]
    assert max(switches) - min(switches) > 5


def test_an_interpreter_that_shares_the_gil() -> None:
    import _interpreters

    other = _interpreters.create("legacy")
    code = f"import time\n{inspect.getsource(_spin)}\n_spin(.3)"
    try:
        with looking() as looks:
            assert _interpreters.exec(other, code) is None
    finally:
        _interpreters.destroy(other)
    assert threading.get_native_id() in {look.native_id for look in looks if look.function == "_spin"}


def test_a_gil_that_was_written_down(interpreter: Interpreter) -> None:
    assert interpreter.counts_waiting == (WHAT[3] is not None)
    look = interpreter.look()
    holder, locked, switches = struct.unpack_from("=QQQ", look)
    rest = look[24:-4] if interpreter.counts_waiting else b""

    def gil(locked: int, waiters: int = 0) -> Any:
        end = struct.pack("=I", waiters) if interpreter.counts_waiting else b""
        return interpreter.gil(struct.pack("=QiiQ", holder, locked, 0, switches) + rest + end)

    assert gil(0) is gil(-1) is None
    assert gil(1)[:2] == (holder, switches)
    if interpreter.counts_waiting:
        assert [gil(1, waiters).waiting for waiters in (0, 7, 8, 15, 8 * 1000 + 1, 2**32 - 1)] == [
            0,
            0,
            1,
            1,
            1000,
            None,
        ]


def test_without_a_count(memory: Memory) -> None:
    interpreter = Interpreter(memory, *WHAT[:3], None)
    assert not interpreter.counts_waiting
    with looking() as looks:
        _spin(0.1)
    assert interpreter.switches(interpreter.look()) >= max(look.switches for look in looks)


# Nonsense.


def _try(interpreter: Interpreter, address: int, instruction: int = 0) -> int:
    """Reads everything from there. How much there was; no exception but OSError, and no long time."""
    begin = time.monotonic()
    read = 0
    for one in (
        lambda: interpreter.thread(address),
        lambda: interpreter.frame(address),
        lambda: interpreter.code(address),
        lambda: interpreter.line(Frame(address, instruction, 0)),
        lambda: interpreter.stack(Thread(0, address)),
    ):
        with suppress(OSError):
            found: Any = one()
            read += found is not None
            if isinstance(found, Code):
                found.filename.encode()
                found.qualname.encode()
    assert time.monotonic() - begin < 10
    return read


def test_no_interpreter(memory: Memory) -> None:
    for address in 0, 1, 2**63, 2**64 - 1, id(memory), WHAT[0] + 8:
        with pytest.raises((OSError, ValueError), match=r"."):
            Interpreter(memory, address, *WHAT[1:])
    with pytest.raises(ValueError, match="of version"):
        Interpreter(memory, WHAT[0], sys.hexversion + 1, *WHAT[2:])


def test_wrong_type_of_code(memory: Memory) -> None:
    interpreter = Interpreter(memory, *WHAT[:2], id(int), WHAT[3])
    with pytest.raises(OSError, match="no code object"):
        interpreter.code(id(_spin.__code__))


def test_a_thread_of_nowhere(interpreter: Interpreter) -> None:
    """Its interpreter is none, or has another GIL."""
    state = _this_thread()
    assert interpreter.thread(state).native_id == threading.get_native_id()
    copy = bytearray(ctypes.string_at(state, 512))
    start = ctypes.addressof(ctypes.c_char.from_buffer(copy))
    assert interpreter.thread(start).native_id == threading.get_native_id()
    at = copy.index(struct.pack("=Q", interpreter._main))
    for wrong in 0, 1, id(interpreter), 2**64 - 1:
        copy[at : at + 8] = struct.pack("=Q", wrong)
        with pytest.raises(OSError, match=r"."):
            interpreter.thread(start)


def test_frames_that_go_round_in_circles(interpreter: Interpreter) -> None:
    at = interpreter._offsets
    frame = bytearray(256)
    start = ctypes.addressof(ctypes.c_char.from_buffer(frame))
    previous = at["interpreter_frame.previous"]
    frame[previous : previous + 8] = struct.pack("=Q", start)
    assert len(interpreter.stack(Thread(0, start))) == 200
    frame[at["interpreter_frame.owner"]] = 3
    assert interpreter.stack(Thread(0, start)) == []
    with pytest.raises(OSError, match="circles"):
        interpreter.frame(start)


def test_any_address(interpreter: Interpreter) -> None:
    """Of memory that is mapped, of objects, and of nothing."""
    chance = random.Random(1)
    maps = Path("/proc/self/maps").read_text().splitlines()
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps if " r" in line]
    addresses = [end + offset for ends in ranges for end in ends for offset in (-65, -8, 0)]
    addresses += [chance.randrange(begin, end) & -8 for begin, end in ranges for _ in range(4)]
    addresses += [id(one) + offset for one in gc.get_objects()[:500] for offset in (-8, 0, 16)]
    addresses += [chance.getrandbits(chance.randrange(1, 65)) for _ in range(500)]
    addresses += [id(_spin.__code__), _this_thread(), 0, 1, 2**63, 2**64 - 1]
    assert sum(_try(interpreter, address, chance.getrandbits(64)) for address in addresses) > len(ranges)


class _Torn(Memory):
    """Memory in which now and then something else is read than what is there."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.wrong = 0.0

    def read(self, address: int, size: int) -> bytes:
        found = bytearray(super().read(address, size))
        for at in range(0, size - 7, 8):
            if self.chance.random() < self.wrong:
                kind = self.chance.randrange(4)
                word = (
                    self.chance.getrandbits(64),
                    self.chance.getrandbits(self.chance.randrange(1, 64)),
                    id(_spin.__code__) + 8 * self.chance.randrange(20),
                    int.from_bytes(found[at : at + 8], "little") ^ 1 << self.chance.randrange(64),
                )[kind]
                found[at : at + 8] = struct.pack("=Q", word)
        return bytes(found)


@pytest.mark.parametrize("wrong", [0.003, 0.03, 0.3])
def test_a_mixture(wrong: float) -> None:
    """Whatever changes while it is read."""
    memory = _Torn(random.Random(2))
    interpreter = Interpreter(memory, *WHAT)
    memory.wrong = wrong
    right = 0
    with standing(_outer) as (state, _):
        for _ in range(150):
            with suppress(OSError):
                interpreter.gil()
                for frame in interpreter.stack(interpreter.thread(state)):
                    with suppress(OSError):
                        right += interpreter.code(frame.code) == Code(__file__, "_inner")
                        interpreter.line(frame)
            _try(interpreter, id(_inner.__code__), id(_inner.__code__) + 300)
    memory.close()
    assert right or wrong > 0.1
