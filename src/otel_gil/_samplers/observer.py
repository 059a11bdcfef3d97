"""The observer: an interpreter of its own that reads the GIL's state in memory, and never asks for the GIL.

For CPython 3.13 and 3.14 on Linux. The only sampler that knows who holds the GIL and how many threads wait for it,
and that goes on while the GIL is held. What it does is in `otel_gil._observer`; this file starts and stops it, and does
for it what must be done in the main interpreter: names of threads, and what is told of stalls.

What it can't see: the waits of single requests. Its interpreter ends before each fork, and another one begins after it,
as a process that has two does not survive a fork (CPython 3.13 and 3.14).
"""

from __future__ import annotations

import atexit
import logging
import marshal
import os
import sys
import sysconfig
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_gil._forks import FORKS
from otel_gil._observer import layout
from otel_gil._observer.files import high
from otel_gil._observer.settings import MESSAGE, PROVEN, READY, Settings
from otel_gil._records import names
from otel_gil._samplers.thread import SamplerThread
from otel_gil._snapshot import Snapshot, Stall
from otel_gil._unpatched import original

if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from otel_gil._observer.board import Board
    from otel_gil._samplers import Sampler

_logger = logging.getLogger(__name__)

_sleep = original("time", "sleep")
_get_native_id = original("_thread", "get_native_id")
_allocate_lock = original("_thread", "allocate_lock")
_RLock = original("_thread", "RLock")

_START = 10_000  # milliseconds in which an observer starts, but for those in which its caller has to wait for the GIL
_PROOF = 2.0  # seconds that its caller runs, and must have been seen in
_END = 30  # seconds in which it ends, counted in the same way; far more than it takes, as to fork before that is fatal

_MSG_NOSIGNAL = 0x4000  # of Linux; an application may have given SIGPIPE back its default, which ends the process

_DELAY = 0.1
"""Seconds from a fork to the start, so that one is enough for many forks, and none is for a child that executes another
program at once. A daemon has closed all files by then."""

_DELAY_OF_CHILD_THAT_SERVES = 0.5
"""Seconds from its fork to its start: so its parent, which has given up its port for the fork, gets it back."""

_LEAKING_STARTS = 16
"""CPython 3.13 does not give back the 2.6 MiB of an interpreter that ends. After so many another sampler goes on."""

_WAITERS = (((2, 41), 28), ((2, 25), 36))
"""From which glibc on the count of waiting threads is at which offset of a condition variable."""


DASK = "under Dask, whose profiler calls sys._current_frames() all the time, the process would abort when it ends"


class Observing(NamedTuple):
    """What only the observer can be asked for.

    Attributes:
        holders: what the time held is given by: `none`, `thread` or `function`.
        threshold: seconds of a hold that is a stall.
        stderr: whether a stall is written to standard error while it lasts.
        host, port: where it serves its metrics; port 0 for nowhere.
    """

    holders: str = "function"
    threshold: float = 1.0
    stderr: bool = False
    host: str = "127.0.0.1"
    port: int = 0


def unavailable() -> str | None:  # noqa: PLR0911 - so many reasons
    """Why this sampler can't measure here; None where it may. Whether it can is proven when it starts."""
    if sys.platform != "linux":
        return f"it needs Linux, not {sys.platform}"
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in layout.VERSIONS:
        known = " and ".join(f"{major}.{minor}" for major, minor in layout.VERSIONS)
        running = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
        return f"it knows CPython {known}, not {running}"
    if _under_dask():
        return DASK
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it does not know free-threaded builds"
    if sys.maxsize < 1 << 32:
        return "it does not know 32-bit builds"
    try:
        from otel_gil import _interpreter

        _interpreter.runtime()
    except (ImportError, ValueError) as error:
        return f"this interpreter lacks what it needs: {error}"
    return None


def _under_dask() -> bool:
    return "distributed" in sys.modules


class ObserverSampler:
    """Starts and stops the observer, and reads what it publishes.

    Args:
        interval: mean seconds between two looks; thrice that while they all see the same.
        window: seconds that the contention is taken over.
        observing: the rest.
        report: is given each stall that is over, with the moment of its end in nanoseconds since 1970.
        successor: makes the sampler that goes on where this one can't, None where there is none.
    """

    def __init__(
        self,
        interval: float,
        window: float,
        observing: Observing,
        report: Callable[[Stall, int], None],
        successor: Callable[[], Sampler | None],
    ) -> None:
        self._interval = interval
        self._window = window
        self._observing = observing
        self._report = report
        self._make_successor = successor
        self._successor: Sampler | None = None
        self._given_up = False
        self._proven = False
        self._forked = False
        self._begin_process()

    def _begin_process(self) -> None:
        self._pid = os.getpid()
        self._changing = _RLock()  # a signal handler may fork while its thread is in here
        self._run: _Run | None = None
        self._last: Snapshot | None = None

    @property
    def forkable(self) -> bool:
        """Whether the process can fork while this measures."""
        return self._given_up

    def start(self, since: Snapshot | None = None) -> None:
        """Start the observer; in a forked child, or after a fork, with the totals to go on from.

        While another thread forks nothing is started, as that thread will do it.
        """
        if self._pid != os.getpid():
            self._begin_process()
            self._forked = True
            if self._proven and self._successor:  # what its parent could do no more, a child can
                self._successor.start()  # which lets go of what the parent has
                self._successor.stop()
                self._given_up, self._successor = False, None
        if not self._given_up:
            try:
                self._observe(since)
            except (OSError, RuntimeError) as error:
                self._give_up(f"OTEL_PYTHON_GIL_SAMPLER='observer' can't be used: {error}; using auto")
        if self._given_up and self._successor:
            self._successor.start(since)

    def give_way(self, why: str) -> None:
        """End the observer for good, and go on with another sampler."""
        if not self._given_up:
            self._proven = False  # so that no child tries again
            self._give_up(f"The sampler 'observer' is stopped: {why}; using auto")
            if self._successor:
                self._successor.start(self._last)

    def stop(self) -> None:
        """End the observer. Must have been done before the process forks."""
        self._end()
        if self._successor:
            self._successor.stop()

    def read(self) -> Snapshot | None:
        """What was published last, .1 s ago or so while the GIL is held and .5 s else; None before that.

        Between the end of one observer and the start of the next, as around a fork, it is what was known before.

        Raises:
            RuntimeError: the observer has failed.
        """
        if self._given_up:
            return self._successor.read() if self._successor else None
        run = self._run
        return (run.read() if run else None) or self._last

    def _observe(self, since: Snapshot | None) -> None:
        from otel_gil import _interpreter

        proof = None if self._proven else _get_native_id()
        with self._changing:
            if self._run:
                return
            if sys.version_info < (3, 14) and _interpreter.made() >= _LEAKING_STARTS:
                raise RuntimeError(
                    f"it has begun {_LEAKING_STARTS} times, as after forks, and each costs memory in CPython 3.13"
                )
            delay = _DELAY_OF_CHILD_THAT_SERVES if self._forked and self._observing.port else _DELAY
            self._run = run = FORKS.start(
                lambda: _Run(0.0 if proof else delay, lambda: self._settings(since, proof), self._heed)
            )
            atexit.register(self._exit)
        if proof and run:
            self._be_proven(run)

    def _settings(self, since: Snapshot | None, proof: int | None) -> Settings:
        from otel_gil import _interpreter

        observing = self._observing
        return Settings(
            _interpreter.runtime(),
            sys.hexversion,
            id(CodeType),
            _waiters(),
            (proof, "_be_seen", "ObserverSampler._be_proven") if proof else None,
            _paths(),
            _thread_names(),
            self._interval,
            self._window,
            observing.holders,
            observing.threshold,
            observing.stderr,
            (observing.host, observing.port) if observing.port else None,
            since.dumps() if since else None,
        )

    def _heed(self, kind: str, *details: Any) -> None:
        if kind == "stall":
            moment, *parts = details
            stall = Stall(*parts)
            if stall.thread == names.UNKNOWN:  # to the observer, as a thread that has just begun is
                stall = stall._replace(thread=_thread_names(stall.native_id)[stall.native_id])
            self._report(stall, moment)
        else:  # that a child's port is its parent's is no surprise
            _logger.log(logging.INFO if self._forked else logging.WARNING, "%s", *details)

    def _be_proven(self, run: _Run) -> None:
        """Run until the observer has seen it, or another thread ends it.

        Raises:
            RuntimeError: it has not, or could not be started.
        """
        for _ in range(_START):
            if run.state is not None or not run.running:
                break
            _sleep(0.001)
        if run.state is not None:
            _be_seen(run)
        if run.proven:
            self._proven = True
        elif not run.told:
            raise RuntimeError(run.failure or run.state or "it did not start")

    def _end(self) -> None:
        """End the observer. What it has published remains."""
        with self._changing:
            if self._run:
                self._last = self._run.end() or self._last
                self._run = None
            atexit.unregister(self._exit)

    def _exit(self) -> None:
        FORKS.before_exit()
        self._end()

    def _give_up(self, why: str) -> None:
        self._end()
        _logger.warning("%s", why)
        self._given_up = True
        self._successor = self._make_successor()


class _Run:
    """One observer, from its start to its end.

    Args:
        delay: seconds to wait before, in which it costs nothing to end it.
        settings: gives what it is told.
        heed: is given what it tells: a kind, and details.
    """

    def __init__(self, delay: float, settings: Callable[[], Settings], heed: Callable[..., None]) -> None:
        self._delay = delay
        self._settings = settings
        self._heed = heed
        self._over = _allocate_lock()
        self._over.acquire()
        self._control: socket | None = None
        self._board: Board | None = None
        self.failure: str | None = None
        self.told = False
        self._thread = SamplerThread(self._main)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.running

    @property
    def state(self) -> Snapshot | str | None:
        """What it has published."""
        board = self._board
        return board.read() if board else None

    @property
    def proven(self) -> bool:
        """Whether it has seen what it must."""
        state = self.state
        return isinstance(state, Snapshot) or state == PROVEN

    def read(self) -> Snapshot | None:
        """What it has found; None while that is nothing.

        Raises:
            RuntimeError: it has failed.
        """
        if self.failure:
            raise RuntimeError(self.failure)
        state = self.state
        return state if isinstance(state, Snapshot) else None

    def end(self) -> Snapshot | None:
        """End it, and give what it has found in the end."""
        self.told = True
        with suppress(RuntimeError):  # done before
            self._over.release()
        if control := self._control:
            _send(control, None)
        # Not one long wait: while another thread holds the GIL for all of it, there is no telling.
        if not any(self._thread.stop() for _ in range(_END)):
            _logger.warning("The observer of the GIL does not end")
        state = self.state
        return state._replace(stall=None) if isinstance(state, Snapshot) else None

    def _main(self, _: SamplerThread) -> None:
        try:
            if not self._over.acquire(timeout=self._delay):
                self._observe()
        except Exception as error:
            self.failure = str(error) or type(error).__name__
        finally:
            FORKS.ended(self)

    def _observe(self) -> None:
        import _socket

        from otel_gil import _interpreter
        from otel_gil._observer.board import Board

        with ExitStack() as files:
            file = os.memfd_create("otel-gil")
            board = high(file)
            files.callback(_close, board)
            os.close(file)
            os.ftruncate(board, Board.SIZE)
            pair = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            ours, theirs = (_socket.socket(fileno=high(end.fileno())) for end in pair)
            files.callback(_close, ours, theirs)
            _close(*pair)
            ours.setblocking(True)  # whatever the application's default is
            theirs.setblocking(False)
            listener = SamplerThread(lambda _: self._listen(ours))
            files.callback(listener.stop)
            files.callback(_close, theirs)  # which ends the listener
            self._board = Board(board)
            self._control = ours
            settings = self._settings()
            if self.told:
                return
            _interpreter.run("otel_gil._observer.watch", "run", board, theirs.fileno(), tuple(settings))
            if not self.told:
                state = self.state
                why = state if isinstance(state, str) and state not in (READY, PROVEN) else "its files were closed"
                raise RuntimeError(why)

    def _listen(self, control: socket) -> None:
        with suppress(ConnectionResetError):  # it has ended, and not read what it was sent
            while message := control.recv(MESSAGE):
                self._answer(control, *marshal.loads(message))  # noqa: S302 - from this process

    def _answer(self, control: socket, kind: str, *details: Any) -> None:
        try:
            if kind == "names":
                _send(control, _thread_names(*details))
            elif kind != "ask":  # which is done: to run here takes the GIL
                self._heed(kind, *details)
        except Exception:
            _logger.exception("What the observer of the GIL has told is lost")


def _be_seen(run: _Run) -> None:
    # Its name, and that of who calls it, is what the observer looks for.
    end = time.thread_time() + _PROOF
    while not run.proven and run.running and time.thread_time() < end:
        pass


def _paths() -> tuple[str, ...]:
    """`sys.path`, and what it will begin with when the application runs, if that is not yet, but `sitecustomize`."""
    paths = [path for path in sys.path if isinstance(path, str)]
    if not hasattr(sys.modules["__main__"], "__file__"):
        script = Path(sys.argv[0] if sys.argv else "")
        with suppress(OSError):  # the working directory has gone
            paths.append(str(script.resolve().parent if script.is_file() else Path.cwd()))
    return tuple(paths)


def _send(control: socket, message: dict[int, str] | None) -> None:
    data = marshal.dumps(message)
    while message and len(data) > MESSAGE:
        message = dict(list(message.items())[: len(message) // 2])
        data = marshal.dumps(message)
    with suppress(OSError):  # it has gone
        control.send(data, _MSG_NOSIGNAL)


def _close(*files: int | socket) -> None:
    for file in files:
        with suppress(OSError):  # the application has closed it
            if isinstance(file, int):
                os.close(file)
            else:
                file.close()


def _thread_names(*others: int) -> dict[int, str]:
    """The names of Python's threads by native id, and, first, those that the system has for other ones."""
    known = {
        thread.native_id: names.thread(thread.name)[: names.LONGEST]
        for thread in threading.enumerate()
        if thread.native_id is not None
    }
    return {native_id: known.get(native_id) or _system_name(native_id) for native_id in others} | known


def _system_name(native_id: int) -> str:
    try:
        return Path(f"/proc/self/task/{native_id}/comm").read_text().strip()
    except OSError:
        return names.UNKNOWN  # it has gone


def _waiters() -> int | None:
    """Where glibc has the count of threads that wait for a condition; None where it is not known."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        numbers = tuple(int(part) for part in version.split(".")[:2])
    except (OSError, ValueError):
        return None
    if name != "glibc":
        return None
    return next((offset for since, offset in _WAITERS if numbers >= since), None)
