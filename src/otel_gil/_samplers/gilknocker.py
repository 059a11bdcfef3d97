"""The sampler that asks gilknocker, the native monitor that Dask uses. The default on macOS and Windows.

gilknocker's threads ask for the GIL every millisecond in rounds of 50 ms, with a millisecond or two between
rounds: near-continuous, as the short rounds of its defaults would be stretched by long holds and give them too
much weight. Its `contention_metric` is the time waited in all rounds since the last reset divided by their length.

gilknocker has no cumulative time (its issue 23), and a reset by one reader falsifies what the others read. Here
one thread owns it: it turns the metric into seconds, and resets it once a window.

What it can't see: between two requests gilknocker sleeps for a millisecond and counts it as free, so a GIL that
is never free reads about .83 at the default switch interval of 5 ms, and holds of a few milliseconds and less
read too low. It gives no wait durations. It costs some percent of a core.
"""

from __future__ import annotations

import atexit
import importlib.util
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from otel_gil._samplers.thread import SamplerThread, signals_blocked
from otel_gil._snapshot import Snapshot
from otel_gil._unpatched import original

_sleep = original("time", "sleep")
_monotonic = original("time", "monotonic")
_allocate_lock = original("_thread", "allocate_lock")

_POLLING = 1_000  # microseconds between two requests
_ROUND = 50_000  # microseconds of requests between two updates of the metric
_PAUSE = 1_000  # microseconds between two rounds

_TICK = 0.25  # seconds between two entries into the account
_LATE = 0.35  # seconds after the last entry that show that there was a hold since
_ROUND_ENDS = 0.5  # seconds in which a round ends, unless there is a hold; on a busy machine far more than its length
_ENDS = 1.0  # seconds in which gilknocker's threads end; on a busy machine far more than the length of a round


_NEWEST = (3, 13)
"""The last CPython that a gilknocker is known to work on. 0.4.2, the newest, ends a process on 3.14 (SIGSEGV)."""

_TRIAL = f"""
import os, sys, time
sys.path.insert(0, sys.argv[1])
from gilknocker import KnockKnock
knocker = KnockKnock({_POLLING}, {_ROUND}, {_PAUSE})
knocker.start()
time.sleep({3 * _ROUND / 1e6})
assert 0 <= knocker.contention_metric <= 1
knocker.reset_contention_metric()
print("works", flush=True)
os._exit(0)  # at an orderly exit gilknocker can abort the process, unless it is let go of as below
"""
_TRIAL_ENDS = 20.0  # seconds; far more than it takes


def unavailable() -> str | None:
    """Why this sampler can't measure here; None where it can, which another process has tried."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] > _NEWEST:
        running = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
        return f"gilknocker is not known to work on {running}; its version 0.4.2 ends processes on CPython 3.14"
    found = importlib.util.find_spec("gilknocker")
    if found is None or not found.origin:
        return "gilknocker is not installed (pip install 'otel-gil[gilknocker]')"
    return _try(str(Path(found.origin).parent.parent))


@cache
def _try(folder: str) -> str | None:
    """Use gilknocker in a process of its own, and tell why it can't be used here."""
    # What a program that embeds Python would do with `-c` is unknown.
    if not Path(sys.executable or "").name.lower().startswith("python"):
        return f"gilknocker can't be tried first: {sys.executable or 'nothing'!r} is not known to be Python"
    try:
        # Not by the environment, which may have this interpreter run something at its start, such as ourselves.
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", _TRIAL, folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TRIAL_ENDS,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # of Windows
            check=False,
        )
    except Exception as error:  # such as gevent's, whose `subprocess` has limits of its own
        return f"gilknocker could not be tried first: {error}"
    # The exit code may be lost to the application, where that waits for any child.
    works = done.stdout.strip() == b"works"
    return None if works else f"gilknocker failed when it was tried first, exit code {done.returncode}"


def _threads() -> frozenset[int]:
    """The native threads of this process; none where they are not known."""
    try:
        return frozenset(int(path.name) for path in Path("/proc/self/task").iterdir())
    except OSError:
        return frozenset()


class Account(NamedTuple):
    """Seconds made of a metric that is reset once a window.

    Attributes:
        now: the moment of the last entry.
        metric: what was entered then.
        reset: when the metric was last reset.
        at_reset: blocked seconds up to then, as the metric has them.
        previous: the metric before that reset; None while there was none.
        snapshot: what is published.
    """

    now: float
    metric: float
    reset: float
    at_reset: float
    previous: float | None
    snapshot: Snapshot

    @staticmethod
    def open(now: float, since: Snapshot) -> Account:
        """An account that goes on from the totals of `since`."""
        return Account(now, 0.0, now, since.blocked, None, Snapshot(*since[:3]))

    def enter(self, metric: float, now: float, window: float) -> Account:
        """The account after a reading of the metric: that share of the time since the reset was blocked.

        The metric can fall, and is a float of 32 bits: the totals follow it as far as they can while they never
        decrease, nor grow by more than the time that passed. The contention is over one window, of which the
        part before the reset is the previous metric's.
        """
        metric = min(max(metric, 0.0), 1.0)
        passed = max(now - self.now, 0.0)
        age = now - self.reset
        blocked, free = self.snapshot.blocked, self.snapshot.free
        grown = min(max(self.at_reset + metric * age - blocked, 0.0), passed)
        contention = metric
        if self.previous is not None and age < window:
            contention = (metric * age + self.previous * (window - age)) / window
        return self._replace(
            now=now, metric=metric, snapshot=Snapshot(contention, blocked + grown, free + (passed - grown))
        )

    def close(self) -> Account:
        """The account after a reset of the metric, which followed the last entry."""
        at_reset = self.at_reset + self.metric * (self.now - self.reset)
        return self._replace(reset=self.now, at_reset=at_reset, previous=self.metric)


class GilknockerSampler:
    """Reads gilknocker's raw contention metric, and makes cumulative seconds of it.

    Args:
        window: seconds after which the metric is reset.
    """

    # CPython 3.10 takes a lock in a forked child that one of gilknocker's threads may have had: the child hangs.
    forkable = sys.version_info >= (3, 11)

    def __init__(self, window: float) -> None:
        self._window = window
        self._knocker: Any = None
        self._thread: SamplerThread | None = None
        self._lock = _allocate_lock()
        self._account: Account | None = None
        self._others: frozenset[int] = frozenset()

    def start(self, since: Snapshot | None = None) -> None:
        """Start gilknocker; in a forked child, with the totals to go on from."""
        from gilknocker import KnockKnock

        if self._knocker:
            self._forsake()
        self._lock = _allocate_lock()
        self._account = Account.open(_monotonic(), since or Snapshot(0.0, 0.0, 0.0))
        self._knocker = KnockKnock(_POLLING, _ROUND, _PAUSE)
        self._others = _threads()
        with signals_blocked():
            self._knocker.start()
        atexit.register(self._release)
        self._thread = SamplerThread(self._keep_account)

    def stop(self) -> None:
        """Stop gilknocker, which takes a round of it."""
        if self._thread:
            self._thread.stop()
        atexit.unregister(self._release)
        self._release()

    def read(self) -> Snapshot | None:
        """What is known now; None before the first entry and after a failure."""
        if not self._thread or not self._thread.running or not self._account:
            return None
        if self._late():
            self._await_round()
            self._enter()
        snapshot = self._account.snapshot
        return snapshot if snapshot.blocked + snapshot.free > 0 else None

    def _keep_account(self, thread: SamplerThread) -> None:
        while True:
            _sleep(_TICK)
            if not thread.running or not self._account:
                return
            # A round in progress counts after a reset, whenever it began. One that has just begun is no loss.
            due = _monotonic() - self._account.reset >= self._window
            ended = (due or self._late()) and self._await_round()
            self._enter(reset=due and ended)

    def _late(self) -> bool:
        """Was there a hold since the last entry? The round that met with it may still have to end."""
        account = self._account
        return account is not None and _monotonic() - account.now > _LATE

    def _await_round(self) -> bool:
        """Wait until a round ends, which changes the metric; false where none did in time."""
        before = self._metric()
        end = _monotonic() + _ROUND_ENDS
        while _monotonic() < end:
            _sleep(0.001)
            if self._metric() != before:
                return True
        return False

    def _metric(self) -> float | None:
        knocker = self._knocker
        return knocker.contention_metric if knocker else None

    def _enter(self, *, reset: bool = False) -> None:
        with self._lock:
            knocker = self._knocker
            if not self._account or not knocker:
                return
            account = self._account.enter(knocker.contention_metric, _monotonic(), self._window)
            if reset:
                knocker.reset_contention_metric()
                account = account.close()
            self._account = account

    def _release(self) -> None:
        """Let go of gilknocker, at exit at the latest; the account stays as it is.

        Its `stop` sleeps with the GIL in its hands, so that a round goes on after it, and when that one asks for
        the GIL of an interpreter that has gone it aborts the process. Without its handle gilknocker ends by itself.
        """
        with self._lock:
            knocker, self._knocker = self._knocker, None
        if knocker:
            atexit.unregister(knocker.stop)  # gilknocker's own, one for each start
            del knocker
            _sleep(_ROUND / 1e6 + 0.02)
            end = _monotonic() + _ENDS
            while self._may_be_gilknockers() and _monotonic() < end:
                _sleep(0.005)

    def _may_be_gilknockers(self) -> frozenset[int]:
        """Native threads that were not there before it, and are not Python's. Each round is one of its own."""
        known = {thread.native_id for thread in threading.enumerate()}
        if self._thread:
            known.add(self._thread.native_id)
        return _threads() - self._others - known

    def _forsake(self) -> None:
        """Keep the parent's gilknocker, in a forked child, from doing anything for ever.

        Its threads are not in this process: its `stop` would wait for them and warn, and to free it could wait
        for a lock that one of them held.
        """
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._knocker))
        atexit.unregister(self._knocker.stop)
        atexit.unregister(self._release)
        self._knocker = None
