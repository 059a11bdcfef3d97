"""Children that a thread has forked which is not the main thread of the program.

Such a child has no main program to return to. When the function of its thread returns, nothing is finalized and no
daemon thread is ended: the process ends with its last native thread. One of ours would keep it alive for ever.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from otel_gil._unpatched import original

if TYPE_CHECKING:
    from collections.abc import Callable

_get_ident = original("_thread", "get_ident")
_of_this_thread = original("_thread", "_local")()


def in_children_of_other_threads(function: Callable[[], object]) -> Callable[[], None]:
    """A hook for children: has the function called when the thread that forked ends, unless it is the main one."""
    main = threading.main_thread().ident  # now, as in a child it is the thread that forked

    def after_in_child() -> None:
        if _get_ident() != main:
            _of_this_thread.sentinel = _Sentinel(function)

    return after_in_child


class _Sentinel:
    """Calls a function when the thread that made it ends, and with it what is local to it."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._owner = os.getpid(), _get_ident()

    def __del__(self) -> None:
        # A child of this process gets rid of the threads that it does not have, and that is not their end.
        if self._owner == (os.getpid(), _get_ident()):
            self._function()
