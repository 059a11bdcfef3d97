"""The observer's loop: looks at the GIL, adds up, tells, and answers. Runs in an interpreter of its own."""

from __future__ import annotations

import marshal
import posix
import select
import time
from _random import Random
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from otel_gil._observer.board import Board
from otel_gil._observer.files import high
from otel_gil._observer.interpreter import Interpreter
from otel_gil._observer.memory import Memory
from otel_gil._observer.settings import MESSAGE, PROVEN, READY, Settings
from otel_gil._observer.stalls import Holds
from otel_gil._observer.tally import NOBODY, Tally
from otel_gil._records import names
from otel_gil._records.names import UNKNOWN
from otel_gil._samplers import estimator
from otel_gil._snapshot import Snapshot, Stall

if TYPE_CHECKING:
    from otel_gil._observer.endpoint import Endpoint
    from otel_gil._observer.interpreter import Gil
    from otel_gil._observer.tally import Seen

_FOLD = 0.1  # seconds between two snapshots on the board while the GIL is held, and when it has been given
_FOLD_FREE = 0.5  # and while it is not
_MILLISECOND = 1e-3
_TRUSTED = 1.0  # seconds for which an address is taken for the function that it was
_CODES = 2000
_LONGEST_STACK = 20_000
_ATTEMPTS = 3


def run(board_fd: int, control: int, orders: tuple[Any, ...]) -> None:
    """Observe until told to stop.

    Args:
        board_fd: of the board's file.
        control: a socket that messages go to and come from.
        orders: the `Settings`.
    """
    settings = Settings(*orders)
    board = Board(board_fd)
    try:
        memory = Memory()
    except OSError as error:
        board.write(f"/proc/self/mem can't be read: {error}")
        return
    try:
        try:
            interpreter = Interpreter(memory, *settings[:4])
        except (OSError, ValueError) as error:
            board.write(str(error))
            return
        board.write(READY)
        if settings.proof and not _proven(interpreter, board, control, settings.proof):
            return
        board.write(PROVEN)
        Observer(interpreter, board, control, settings).run()
    finally:
        memory.close()


def _proven(interpreter: Interpreter, board: Board, control: int, proof: tuple[int, str, str]) -> bool:
    """Whether a known thread is seen to hold the GIL in a known function, called by a known one, before it gives up.

    How long that takes is for that thread to say, as only it knows whether it runs.
    """
    native_id, function, caller = proof
    doubt = ""
    while not _told(control):
        if doubt:
            board.write(doubt)
        time.sleep(0.0002)
        try:
            gil = interpreter.gil()
            if not gil or interpreter.thread(gil.holder).native_id != native_id:
                doubt = doubt or "a thread that runs was not seen to hold the GIL"
                continue
            doubt = "the functions of a thread that runs were not seen"
            stack = interpreter.stack(interpreter.thread(gil.holder))
            seen = [interpreter.code(frame.code).qualname for frame in stack]
            if (function, caller) in pairwise(seen):
                return True
        except OSError as error:
            doubt = f"what a thread runs can't be read: {error}"
    return False


def _told(control: int) -> bool:
    try:
        posix.read(control, MESSAGE)
    except BlockingIOError:
        return False
    return True


class Observer:
    """Looks, and keeps what it saw.

    Args:
        interpreter: that it looks at.
        board: that it publishes snapshots on.
        control: a socket that messages go to and come from.
        settings: what to do.
    """

    def __init__(self, interpreter: Interpreter, board: Board, control: int, settings: Settings) -> None:
        self._interpreter = interpreter
        self._board = board
        self._control = control
        self._settings = settings
        self._since = Snapshot.loads(settings.since) if settings.since else Snapshot(0.0, 0.0, 0.0)
        self._first_switch = interpreter.switches(interpreter.look())
        self._none_waiting = 0 if interpreter.counts_waiting else None
        self._tally = Tally(time.monotonic(), settings.window, self._since, functions=settings.holders == "function")
        self._tally.name(settings.names)
        self._holds = Holds(settings.threshold)
        self._stalls = self._since.stalls or 0
        self._stall: Stall | None = None
        self._held_at = self._folded = 0.0
        self._published = False
        self._held = False
        self._looks: list[tuple[float, float, int, Seen | None, int | None]] = []  # as of `Tally.look`
        self._pace = 1
        self._asked: int | None = None
        self._codes: dict[int, tuple[str, float]] = {}

    def run(self) -> None:
        """Go on until told to stop."""
        with select.epoll() as low:
            epoll = select.epoll.fromfd(high(low.fileno()))
        epoll.register(self._control, select.EPOLLIN)
        endpoint = self._serve(epoll)
        random = Random()
        units = [0.0]
        now = time.monotonic()
        while True:
            units = units or estimator.intervals(random)  # type: ignore[arg-type]
            # epoll waits for whole milliseconds: so the sleep is a random one of the two beside what is drawn.
            pace = self._pace
            sleep = int(pace * self._settings.interval * units.pop() * 1e3 + random.random()) / 1e3
            due = now + sleep
            while (left := due - time.monotonic()) > _MILLISECOND / 2:
                for fd, event in epoll.poll(left - _MILLISECOND / 2):
                    if fd == self._control:
                        if not self._obey():
                            self._fold(time.monotonic())
                            return
                    elif endpoint:
                        endpoint.serve(fd, event, time.monotonic())
                if endpoint:
                    endpoint.expire(time.monotonic())
            now = self._look(sleep, pace)

    def _obey(self) -> bool:
        """Heed a message; false where it says to stop."""
        message = posix.read(self._control, MESSAGE)
        names = marshal.loads(message) if message else None  # noqa: S302 - from this process
        if names is None:
            return False
        self._asked = None
        self._tally.name(names)
        return True

    def _look(self, sleep: float, pace: int) -> float:
        look = self._interpreter.look()
        now = time.monotonic()
        gil = self._interpreter.gil(look)
        soon = gil or self._held or not self._published
        if gil or self._held:
            held = self._holds.look(now, gil)
            self._looks.append((now, sleep, pace, self._holder(gil, now) if gil else None, self._waiting(gil)))
            self._follow(now, gil, held)
            self._held = gil is not None
        else:
            self._looks.append((now, sleep, pace, None, self._none_waiting))
        if now - self._folded >= (_FOLD if soon else _FOLD_FREE):
            self._fold(now)
        return now

    def _fold(self, now: float) -> Snapshot | None:
        """Do the arithmetic for all looks since the last time, as to do it right after each sleep costs more.

        What is known then is published, and given.
        """
        for look in self._looks:
            self._tally.look(*look)
        self._looks = []
        self._pace = self._tally.pace
        self._folded = now
        if snapshot := self._snapshot(now):
            self._board.write(snapshot)
            self._published = True
        return snapshot

    def _waiting(self, gil: Gil | None) -> int | None:
        """How many threads wait, without the one that does so for the observer; None where that can't be read."""
        if gil is None:
            return self._none_waiting
        ours = self._holds.asked or self._asked is not None
        return max(gil.waiting - ours, 0) if gil.waiting else gil.waiting

    def _holder(self, gil: Gil, now: float) -> Seen:
        """Which thread has the GIL, and in which function, as far as it is asked for."""
        asked = self._settings.holders
        if asked == "none":
            return NOBODY
        native_id, function = 0, UNKNOWN
        for _ in range(_ATTEMPTS):
            try:
                native_id, address = self._interpreter.thread(gil.holder)
                if asked == "function" and (frame := self._interpreter.frame(address)):
                    function = self._function(frame.code, now)
            except OSError:
                continue  # it has changed while it was read
            break
        if self._asked is None and self._tally.thread(native_id) is None and self._tell("names", native_id):
            self._asked = native_id
        return native_id, function if asked == "function" else ""

    def _function(self, code: int, now: float) -> str:
        name, until = self._codes.get(code, ("", 0.0))
        if now > until:
            found = self._interpreter.code(code)
            name = names.function(found.filename, found.qualname, self._settings.paths)[-names.LONGEST :]
            if len(self._codes) >= _CODES:
                self._codes.clear()
            self._codes[code] = (name, now + _TRUSTED)
        return name

    def _follow(self, now: float, gil: Gil | None, held: float) -> None:
        if gil and held:
            if self._stall is None:
                self._stalls += 1
                self._stall = self._caught(held, gil)
                if self._settings.stderr:
                    _shout(self._stall)
            self._stall = self._stall._replace(seconds=held)
            self._held_at = now
        elif self._stall:
            after = (now - self._held_at) / 2  # it ended between the two looks
            over = self._stall._replace(seconds=self._stall.seconds + after)
            self._stall = None
            self._tell("stall", time.time_ns() - round(after * 1e9), *over)
        elif self._holds.ask(now):
            self._tell("ask")

    def _caught(self, held: float, gil: Gil) -> Stall:
        stall = Stall(held, UNKNOWN, 0)
        try:
            thread = self._interpreter.thread(gil.holder)
            stall = stall._replace(native_id=thread.native_id, thread=self._tally.thread(thread.native_id) or UNKNOWN)
            for frame in self._interpreter.stack(thread):
                code = self._interpreter.code(frame.code)
                line = self._interpreter.line(frame)
                if not stall.stack:
                    function = names.function(code.filename, code.qualname, self._settings.paths)
                    stall = stall._replace(function=function, file=code.filename, line=line)
                call = f'  File "{code.filename}", line {line or "?"}, in {code.qualname}\n'
                stall = stall._replace(stack=(call + stall.stack)[-_LONGEST_STACK:])
        except OSError:
            pass  # what was read before that is right
        return stall

    def _snapshot(self, now: float) -> Snapshot | None:
        look = self._interpreter.look()
        gil = self._interpreter.gil(look)
        self._tally.advance(now)
        switches = (self._since.switches or 0) + self._interpreter.switches(look) - self._first_switch
        stall = self._stall and self._stall._replace(seconds=self._stall.seconds + now - self._held_at)
        return self._tally.snapshot(switches, self._waiting(gil), self._stalls, stall)

    def _tell(self, *message: Any) -> bool:
        """Send a message, and say whether it was: not where nobody listens, or too slowly."""
        return _write(self._control, marshal.dumps(message))

    def _serve(self, epoll: select.epoll) -> Endpoint | None:
        if self._settings.address is None:
            return None
        from otel_gil._observer.endpoint import Endpoint
        from otel_gil._observer.exposition import CONTENT_TYPE, text

        def metrics() -> tuple[str, str]:
            snapshot = self._fold(time.monotonic())
            return CONTENT_TYPE, text(snapshot) if snapshot else ""

        def health() -> tuple[str, str]:
            held = self._stall
            state = f"ok, but the GIL has been held for {held.seconds:.1f} s by {held.thread}\n" if held else "ok\n"
            return "text/plain; charset=utf-8", state

        try:
            return Endpoint(epoll, *self._settings.address, {"/metrics": metrics, "/healthz": health})
        except OSError as error:
            host, port = self._settings.address
            self._tell("warning", f"The observer can't serve on {host}:{port}, and goes on without: {error}")
            return None


def _shout(stall: Stall) -> None:
    text = (
        f"otel-gil: the GIL has been held for {stall.seconds:.1f} s by {stall.thread} "
        f"(thread {stall.native_id}), and is still held\n{stall.stack}"
    )
    data = text.encode(errors="backslashreplace")
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    # Where nobody reads it, a pipe that is full is not waited for: so much it takes at once if it takes anything.
    for start in range(0, len(data), select.PIPE_BUF):
        if not poll.poll(0) or not _write(2, data[start : start + select.PIPE_BUF]):
            return


def _write(fd: int, data: bytes) -> bool:
    try:
        posix.write(fd, data)
    except OSError:
        return False
    return True
