"""No second interpreter while a thread forks, nor once the process exits: it survives neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from otel_gil._unpatched import original

if TYPE_CHECKING:
    from collections.abc import Callable

    class _Ending(Protocol):
        def end(self) -> object:
            """End it, if it has not ended, and wait until it has."""

    _Run = TypeVar("_Run", bound=_Ending)

_RLock = original("_thread", "RLock")
_get_ident = original("_thread", "get_ident")

_EXIT = 0


class Forks:
    """Knows what runs a second interpreter, and ends it before a fork, whichever thread forks or has started it."""

    def __init__(self) -> None:
        self._lock = _RLock()  # a signal handler may fork while its thread is in here
        self._against: set[int] = set()
        self._running: set[_Ending] = set()

    def start(self, make: Callable[[], _Run]) -> _Run | None:
        """Make what runs one, for as long as it is not `ended`; None, and nothing made, where there must be none."""
        with self._lock:
            if self._against:
                return None
            run = make()
            self._running.add(run)
            return run

    def ended(self, run: _Ending) -> None:
        """Forget what has ended."""
        self._running.discard(run)

    def before(self) -> None:
        """Let this thread fork."""
        self._refuse(_get_ident())

    def after_in_parent(self) -> None:
        """Go on, unless other threads fork."""
        self._against.discard(_get_ident())

    def after_in_child(self) -> None:
        """Go on without the other threads."""
        self._lock = _RLock()
        self._against.intersection_update({_EXIT})
        self._running.clear()

    def before_exit(self) -> None:
        """Let this process exit."""
        self._refuse(_EXIT)

    def _refuse(self, reason: int) -> None:
        with self._lock:
            self._against.add(reason)
            running = list(self._running)
        for run in running:
            run.end()


FORKS = Forks()
"""Those of this process."""
