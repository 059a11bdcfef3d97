"""The loop's parts, in virtual time, before an interpreter that a test makes up."""

from __future__ import annotations

import marshal
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the observer needs Linux", allow_module_level=True)

from otel_gil._observer import watch
from otel_gil._observer.board import Board
from otel_gil._observer.interpreter import Code, Frame, Gil, Thread
from otel_gil._observer.settings import Settings
from otel_gil._snapshot import Snapshot

MAIN, WORKER = 0x1000, 0x2000  # thread states
IDS = {MAIN: 11, WORKER: 22}
STACK = '  File "/app/m3.py", line 30, in f3\n  File "/app/m1.py", line 10, in f1\n'


class Interpreter:
    """Shows what the test wants it to."""

    counts_waiting = True

    def __init__(self) -> None:
        self.now: Gil | None = None
        self.at = {MAIN: (1, 0), WORKER: (2, 0)}  # function and instruction of each thread
        self.changing = 0  # readings of a thread that fail, as it changes meanwhile

    def look(self) -> bytes:
        return struct.pack("=Q", self.now.switches if self.now else 0)

    def gil(self, _: bytes | None = None) -> Gil | None:
        return self.now

    def switches(self, look: bytes) -> int:
        return int(struct.unpack("=Q", look)[0])

    def thread(self, state: int) -> Thread:
        if self.changing:
            self.changing -= 1
            raise OSError
        return Thread(IDS[state], state)

    def frame(self, address: int) -> Frame:
        code, instruction = self.at[address]
        return Frame(code, instruction, 0)

    def stack(self, thread: Thread) -> list[Frame]:
        return [self.frame(thread.frame), Frame(3, 0, 0)]

    def code(self, code: int) -> Code:
        return Code(f"/app/m{code}.py", f"f{code}")

    def line(self, frame: Frame) -> int | None:
        return 10 * frame.code


class World(SimpleNamespace):
    """An observer, what it looks at, and what it tells."""

    observer: watch.Observer
    interpreter: Interpreter
    board: Board
    control: socket.socket
    now: float

    def look(self, seconds: float, gil: Gil | None) -> None:
        """Look so many seconds later, when the GIL is so."""
        self.now += seconds
        self.interpreter.now = gil
        self.observer._look(seconds, 1)

    def told(self) -> list[Any]:
        found = []
        while True:
            try:
                found.append(marshal.loads(self.control.recv(1 << 16)))
            except BlockingIOError:
                return found

    def name(self, names: dict[int, str]) -> None:
        self.control.send(marshal.dumps(names))
        assert self.observer._obey()

    def published(self) -> Snapshot:
        self.observer._fold(self.now)
        found = self.board.read()
        assert isinstance(found, Snapshot)
        return found


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    ends: list[Callable[[], None]] = []

    def world(**changed: Any) -> World:
        world = World(now=100.0, interpreter=Interpreter())
        clock = SimpleNamespace(monotonic=lambda: world.now, time_ns=lambda: round(world.now * 1e9))
        monkeypatch.setattr(watch, "time", clock)
        file = os.memfd_create("test")
        os.ftruncate(file, Board.SIZE)
        world.board = Board(file)
        os.close(file)
        world.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        world.control.setblocking(False)
        settings = Settings(
            *(0, 0, 0, None, None, ("/app",), {11: "MainThread"}, 0.02, 10.0, "function", 1.0, False, None, None)
        )._replace(**changed)
        world.observer = watch.Observer(world.interpreter, world.board, theirs.fileno(), settings)  # type: ignore[arg-type]
        ends.extend([theirs.close, world.control.close])
        return world

    yield world
    for end in ends:
        end()


def test_held_time_has_names(make: Callable[..., World]) -> None:
    world = make()
    for _ in range(20):
        world.look(0.02, Gil(MAIN, 5, 0))
    (held,) = world.published().held
    assert (held.thread, held.function) == ("MainThread", "m1.f1")
    assert held.seconds == pytest.approx(world.published().blocked) and held.seconds > 0.2
    assert world.told() == []


def test_a_thread_without_a_name_is_asked_for_once(make: Callable[..., World]) -> None:
    world = make()
    for _ in range(20):
        world.look(0.02, Gil(WORKER, 5, 0))
    assert world.told() == [("names", 22)]
    assert world.published().held == ()
    world.name({11: "MainThread", 22: "worker"})
    world.look(0.2, Gil(WORKER, 5, 0))
    (held,) = world.published().held
    assert (held.thread, held.function) == ("worker", "m2.f2")
    assert held.seconds == pytest.approx(world.published().blocked)


@pytest.mark.parametrize(("holders", "held"), [("none", []), ("thread", [("MainThread", "")])])
def test_no_more_is_given_than_asked_for(make: Callable[..., World], holders: str, held: list[Any]) -> None:
    world = make(holders=holders)
    for _ in range(20):
        world.look(0.02, Gil(MAIN, 5, 0))
    assert [one[:2] for one in world.published().held] == held
    assert world.published().blocked > 0.2


def test_what_changes_while_it_is_read_is_read_again(make: Callable[..., World]) -> None:
    world = make()
    for _ in range(20):
        world.interpreter.changing = 2
        world.look(0.02, Gil(MAIN, 5, 0))
    assert [one[:2] for one in world.published().held] == [("MainThread", "m1.f1")]


def test_what_can_not_be_read_is_unknown(make: Callable[..., World]) -> None:
    world = make()
    for _ in range(20):
        world.interpreter.changing = 3
        world.look(0.02, Gil(MAIN, 5, 0))
    world.name({11: "MainThread"})
    world.look(6.0, None)
    assert all(one[1] in ("_unknown", "_other", "m1.f1") for one in world.published().held)
    assert world.published().blocked > 0.2


@pytest.mark.parametrize("holders", ["none", "thread", "function"])
def test_stall(make: Callable[..., World], holders: str, capfd: pytest.CaptureFixture[str]) -> None:
    world = make(stderr=True, holders=holders)
    world.look(0.02, None)
    for _ in range(51):
        world.look(0.02, Gil(MAIN, 5, 1))
    assert world.told() == [("ask",)]
    assert capfd.readouterr().err == ""
    for _ in range(9):
        world.look(0.02, Gil(MAIN, 5, 1))
    assert capfd.readouterr().err == (
        "otel-gil: the GIL has been held for 1.0 s by MainThread (thread 11), and is still held\n" + STACK
    )
    snapshot = world.published()
    assert snapshot.stalls == 1
    assert snapshot.stall is not None
    assert snapshot.stall.seconds == pytest.approx(59 * 0.02)
    assert world.told() == []
    world.look(0.04, None)
    world.look(0.6, None)
    (told,) = world.told()
    kind, moment, seconds, *rest = told
    assert kind == "stall"
    assert moment / 1e9 == pytest.approx(world.now - 0.62, abs=0.01)
    assert seconds == pytest.approx(1.2, abs=0.03)
    assert rest == ["MainThread", 11, "m1.f1", "/app/m1.py", 10, STACK]
    assert (world.published().stalls, world.published().stall) == (1, None)


def test_running_python_is_no_stall(make: Callable[..., World]) -> None:
    world = make()
    switches = 0
    for _ in range(200):
        world.look(0.02, Gil(MAIN, switches, 0))
        switches += 2 * len(world.told())  # who asks gets it
    assert (world.published().stalls, world.published().stall) == (0, None)
    assert 6 <= switches / 2 <= 8


def test_who_waits_for_the_observer_does_not_count(make: Callable[..., World]) -> None:
    world = make()
    for k in range(50):
        world.look(0.02, Gil(MAIN, 5, 3 if k < 30 else 4))
    assert world.told() == [("ask",)]
    assert world.published().waiting == 3
    assert world.published().wait_time == pytest.approx(3 * world.published().blocked, rel=0.05)


def test_totals_go_on(make: Callable[..., World]) -> None:
    first = make()
    for n in range(100):
        first.look(0.02, Gil(MAIN, n, 2))
    before = first.published()
    world = make(since=before.dumps())
    for n in range(100):
        world.look(0.02, Gil(MAIN, 5 + n, 2))
    after = world.published()
    assert after.blocked > before.blocked + 1
    assert after.wait_time is not None and before.wait_time is not None
    assert after.wait_time == pytest.approx(2 * after.blocked)
    assert after.switches is not None and after.switches >= 99
    assert [one[:2] for one in after.held] == [one[:2] for one in before.held]
    assert after.held[0].seconds > before.held[0].seconds + 1


def test_told_to_stop(make: Callable[..., World]) -> None:
    world = make()
    world.control.send(marshal.dumps(None))
    assert not world.observer._obey()
    world.control.close()
    assert not world.observer._obey()
