"""A thread to sample from."""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

from otel_gil._unpatched import original

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_logger = logging.getLogger(__name__)

_get_native_id = original("_thread", "get_native_id")
_start_new_thread = original("_thread", "start_new_thread")
_allocate_lock = original("_thread", "allocate_lock")


_FAULTS = ("SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")
"""Signals of the thread's own faults. To block one does not keep it away: the kernel ends the process then, whatever
handler there is, such as `faulthandler`'s, or a sandbox's for SIGSYS."""


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Start a thread in here, and it gets no signals.

    To block them in the thread itself would be too late: until it has the GIL for the first time the kernel could give
    it a signal that the application has blocked in all threads that it knows of, and whose default action is to end
    the process. A signal that comes meanwhile is handled after it, but for one that is due just when they are blocked:
    its handler runs then, and a program that it starts begins with them blocked.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        faults = {getattr(signal, name) for name in _FAULTS if hasattr(signal, name)}
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
        yield
    finally:
        # Each call runs the handlers of signals that are due, after it has set the mask. They may raise.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@cache
def _load_unwinder() -> None:
    """Load what glibc needs to end a thread.

    CPython before 3.14 ends daemon threads by `pthread_exit` when it is finalized, and glibc loads libgcc_s only then.
    Where that fails, as after a chroot or without a file descriptor to spare, it aborts the process.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError):  # CPython was built without libffi, or another C library does without it
            import ctypes

            ctypes.CDLL("libgcc_s.so.1")


class SamplerThread:
    """A native thread, started at once, that gets no signals, runs when it wakes, and whose failure is logged once.

    The interpreter does not wait for it at exit, and gevent does not make a greenlet of it.

    Args:
        run: what the thread does, as long as `running` is true.
        introduce: is given its identifier before it does.

    Raises:
        RuntimeError: the thread can't be started.
    """

    def __init__(self, run: Callable[[SamplerThread], None], introduce: Callable[[int], None] = lambda _: None) -> None:
        # Here, as ctypes takes its time, and not in the thread, as a fork would copy a module that is half imported.
        from otel_gil._samplers.slice import shorten

        _load_unwinder()
        self._shorten_slice = shorten
        self.running = True
        self.native_id: int | None = None
        self._run = run
        self._ended = _allocate_lock()
        self._ended.acquire()
        try:
            with signals_blocked():
                introduce(_start_new_thread(self._main, ()))
        except BaseException:  # also a signal handler's: nobody gets this object, to stop the thread
            self.running = False
            raise

    def stop(self, timeout: float = 1.0) -> bool:
        """Ask the thread to end, and wait for so many seconds at the most until it has; whether it has."""
        self.running = False
        ended: bool = self._ended.acquire(timeout=timeout)
        if ended:
            self._ended.release()
        return ended

    def _main(self) -> None:
        self.native_id = _get_native_id()
        try:
            self._shorten_slice()
            self._run(self)
        except BaseException:
            _logger.exception("GIL sampler failed: its metrics are absent from now on")
        finally:
            self.running = False
            self._ended.release()
