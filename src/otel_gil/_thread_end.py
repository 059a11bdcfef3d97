"""Children that a thread has forked which is not the main thread of the program.

Such a child has no main program to return to. When the function of its thread returns, nothing is finalized and no
daemon thread is ended: the process ends with its last native thread. One of ours would keep it alive for ever. So ours
ends there, also where threads of the application go on, which are not measured any more.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from otel_gil._unpatched import original

if TYPE_CHECKING:
    from collections.abc import Callable

_get_ident = original("_thread", "get_ident")
_get_native_id = original("_thread", "get_native_id")
_of_this_thread = original("_thread", "_local")()


def follow(function: Callable[[], object]) -> None:
    """Have the function called in children of this process when the thread that forked ends, if it is not main.

    If this is such a child already, and this its thread, in this one as well.
    """
    main = _main_thread()

    def after_in_child() -> None:
        if _get_ident() != main:
            _of_this_thread.sentinel = _Sentinel(function)

    os.register_at_fork(after_in_child=after_in_child)
    if main is None and _get_ident() == threading.main_thread().ident:
        after_in_child()


def _main_thread() -> int | None:
    """The identifier of the main thread of the program; None in a child that another thread has forked."""
    # There `threading` takes the thread that forked for the main one, but does not make another object of it.
    if not isinstance(threading.main_thread(), threading._MainThread):  # type: ignore[attr-defined]  # noqa: SLF001
        return None
    if sys.platform == "linux" and _get_native_id() == os.getpid():  # gevent makes the other one that of a greenlet
        return int(_get_ident())
    return threading.main_thread().ident


class _Sentinel:
    """Calls a function when the thread that made it ends, and with it what is local to it."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._now = os.getpid, _get_ident  # at the interpreter's end, names of this module may be gone
        self._made_in = os.getpid(), _get_ident()

    def __del__(self) -> None:
        # A child of this process gets rid of the threads that it does not have, and that is not their end.
        if self._made_in == tuple(get() for get in self._now):
            self._function()
