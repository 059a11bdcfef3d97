"""The observer: the recorder of this process, a native thread that looks at the GIL and never asks for it.

For CPython 3.10 to 3.15 on Linux and macOS, where the extension `otel_gil._recorder` was built. It knows who holds the
GIL and who waits for it, and goes on while the GIL is held. What it does is in `otel_gil/_native`, what it writes in
`otel_gil._records`. This file starts and stops it, and does for it what takes the GIL: a probe, a thread of Python's,
asks for the GIL at random moments, gives threads their names, and tells of stalls.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from otel_gil._records import files, names
from otel_gil._records.record import RecordReader
from otel_gil._samplers import estimator
from otel_gil._samplers.thread import SamplerThread
from otel_gil._snapshot import Snapshot, Stall
from otel_gil._unpatched import original

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import Context

try:
    import otel_gil._recorder as _recorder  # noqa: PLR0402 - whose error says what is missing
except ModuleNotFoundError:
    _missing: str | None = "its extension was not built"
except ImportError as _error:
    _missing = f"its extension can't be loaded ({_error})"
else:
    _missing = None

_monotonic = original("time", "monotonic")
_get_native_id = original("_thread", "get_native_id")
_allocate_lock = original("_thread", "allocate_lock")

INTERVAL = 0.012
"""Mean seconds between two looks, where no other is asked for."""

_PROBE = 0.2
"""Mean seconds between two requests of the probe."""

_PATIENCE = 1.0
"""Seconds that another thread may take to tell of a stall."""

NEWEST = (3, 15)
"""The newest CPython whose structures are known."""


class Observing(NamedTuple):
    """What only the observer can be asked for.

    Attributes:
        holders: what the time held and waited is given by: `none`, `thread` or `function`.
        threshold: seconds of a hold that is a stall.
        stderr: whether a stall is written to standard error while it lasts.
    """

    holders: str = "function"
    threshold: float = 1.0
    stderr: bool = False


def unavailable() -> str | None:
    """Why this sampler can't measure here; None where it can: it has seen this thread hold the GIL."""
    running = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
    if sys.implementation.name != "cpython" or sys.version_info[:2] > NEWEST:
        return f"it knows CPython 3.10 to {NEWEST[0]}.{NEWEST[1]}, not {running}"
    if sys.platform not in ("linux", "darwin"):
        return f"it needs Linux or macOS, not {sys.platform}"
    if "t" in sys.abiflags:  # sysconfig would say it, too, and takes half a megabyte for it
        return "it does not know free-threaded builds"
    if sys.maxsize < 1 << 32:
        return "it does not know 32-bit builds"
    if _missing:
        return (
            f"{_missing}. To build it, install a C compiler and Python's headers (Debian: gcc and python3-dev), and "
            "install otel-gil again"
        )
    return _prove()


def expected() -> bool:
    """Whether it is a surprise that it can't measure: on this platform it should."""
    return sys.platform in ("linux", "darwin") and sys.implementation.name == "cpython"


def built() -> bool:
    """Whether the extension can be imported."""
    return _missing is None


def record_path() -> str:
    """The file of this process's record; empty where it has none."""
    return "" if _missing else _recorder.path()


@cache
def _prove() -> str | None:
    return _recorder.find() or _be_seen()


def _be_seen() -> str | None:
    return _run_known()


def _run_known() -> str | None:
    # Its name, and that of who calls it, is what the recorder must see.
    return _recorder.prove("_run_known", "_be_seen", _get_native_id())


class ObserverSampler:
    """Starts and stops the recorder and the probe, and reads what they know.

    Args:
        interval: mean seconds between two looks; four times that while they all see the same.
        window: seconds that the contention is taken over.
        observing: the rest.
        record_waits: is given, by the probe, the seconds that requests had to wait.
        report: is given each stall that is over, with the moment of its end in nanoseconds since 1970, and the
            context in which the thread ran that held the GIL, None where it is not known.
    """

    forkable = True

    def __init__(
        self,
        interval: float,
        window: float,
        observing: Observing,
        record_waits: Callable[[Iterable[float]], None],
        report: Callable[[Stall, int, Context | None], None],
    ) -> None:
        self._interval = interval
        self._window = window
        self._observing = observing
        self._record_waits = record_waits
        self._report = report
        self._pid = 0
        self._probe: SamplerThread | None = None
        self._telling = _allocate_lock()
        self._reader: RecordReader | None = None

    def start(self, since: Snapshot | None = None) -> None:
        """Start the recorder, with the totals to go on from. In a forked child it has gone on by itself.

        Raises:
            RuntimeError: a thread can't be started, or the recorder can't be used.
        """
        if not self._pid or not _recorder.running():
            self._start_recorder(since)
            atexit.register(self._tell_stalls)  # the probe does not live to tell those of the last moment
        self._start_probe()

    def stop(self) -> None:
        """Stop the recorder, and remove its record."""
        self._pid = 0
        atexit.unregister(self._tell_stalls)
        if self._probe:
            self._probe.running = False
        _recorder.stop()
        self._tell_stalls()
        if self._probe:
            self._probe.stop()
            self._probe = None

    def read(self) -> Snapshot | None:
        """What is known now, a hold in progress included."""
        if not self._reader or not self._pid:
            return None
        if self._pid != os.getpid():  # a child whose parent has not called Python's hooks
            self._start_probe()
        _name_threads()
        return self._reader.read(_monotonic())

    def _start_recorder(self, since: Snapshot | None) -> None:
        if reason := unavailable():
            raise RuntimeError(reason)
        _recorder.stop()  # another one has left it
        observing = self._observing
        functions = observing.holders == "function"
        before = since or Snapshot(0.0, 0.0, 0.0)
        totals = (before.blocked, before.free, before.contended or 0.0, before.wait_time or 0.0)
        _recorder.start(
            self._interval,
            self._window,
            observing.threshold,
            observing.holders != "none",
            functions,
            observing.stderr,
            _as_utf8(" ".join(getattr(sys, "orig_argv", sys.argv))),
            _as_utf8("\n".join(_paths())),
            [os.fsencode(folder) for folder in files.parents()],
            (*totals, before.switches or 0, before.stalls or 0),
        )
        self._reader = RecordReader(_OwnRecord, self._window, _paths, _monotonic(), since, functions=functions)

    def _start_probe(self) -> None:
        self._pid = os.getpid()
        self._telling = _allocate_lock()  # in a forked child nobody may be left to release the parent's
        self._probe = SamplerThread(self._run_probe, _recorder.begin_probe)

    def _run_probe(self, thread: SamplerThread) -> None:
        random = Random()
        while True:
            due = _monotonic() + random.expovariate(1 / _PROBE)
            wait = None
            while wait is None:
                wait = _recorder.probe(due)
                if not thread.running:
                    return
                _name_threads()
                self._tell_stalls()
            self._record_waits(estimator.corrected([wait], _PROBE))

    def _tell_stalls(self) -> None:
        # At the end of the process the probe may be telling one, and is lost with it if nobody waits for it.
        telling = self._telling  # as another thread may fork meanwhile
        if telling.acquire(timeout=_PATIENCE):
            try:
                self._tell()
            finally:
                telling.release()

    def _tell(self) -> None:
        while self._reader and (told := _recorder.take_stall()):
            seconds, moment, native_id, identifier, name, calls, context = told
            function, code, line, stack = self._reader.stack(calls)
            thread = self._reader.thread_name(*name)
            native_id = native_id or _native_id(identifier)
            stall = Stall(seconds, thread, native_id, function, code.file, line, stack)
            self._report(stall, moment, context)


class _OwnRecord:
    """The record of this process, in its memory."""

    @staticmethod
    def state() -> bytes:
        return _recorder.state()

    @staticmethod
    def read(offset: int, size: int) -> bytes:
        return _recorder.read(offset, size)


def _name_threads() -> None:
    """Give the threads that the recorder has seen the names that they have, as long as they live."""
    unnamed = _recorder.unnamed()
    if not unnamed:
        return
    # Not by threading.enumerate, whose lock another thread may have while it forks, or is stopped.
    active = dict(threading._active)  # type: ignore[attr-defined]  # noqa: SLF001
    for slot, identifier, native_id in unnamed:
        thread = active.get(identifier)
        known = getattr(thread, "native_id", None) or 0
        name = ""
        if thread is not None and (not native_id or native_id == known):
            name = names.thread(thread.name)[: names.LONGEST]
        _recorder.name(slot, identifier, known, _as_utf8(name))


def _as_utf8(text: str) -> str:
    """The text without what C can't take: zeros, and bytes of files' names that are no UTF-8."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _native_id(identifier: int) -> int:
    thread = threading._active.get(identifier)  # type: ignore[attr-defined]  # noqa: SLF001
    return getattr(thread, "native_id", None) or 0


def _paths() -> tuple[str, ...]:
    """`sys.path`, and what it will begin with when the application runs, if that is not yet, but `sitecustomize`."""
    paths = [path for path in sys.path if isinstance(path, str)]
    if not hasattr(sys.modules["__main__"], "__file__"):
        script = Path(sys.argv[0] if sys.argv else "")
        with suppress(OSError):  # the working directory has gone
            paths.append(str(script.resolve().parent if script.is_file() else Path.cwd()))
    return tuple(paths)
