"""Workloads whose true contention of the GIL is known, for the demo, the tests and the benchmarks.

`python -m otel_gil._cli.workloads` plays them on request. A request is a line `INDEX SECONDS` on its standard input.
When the workload has been played, a line of JSON on its standard output has the `truth`, and `gilknocker`: the raw
`contention_metric` of gilknocker with its default intervals, reset when the workload began; null without gilknocker.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from otel_gil._samplers import disabled, gilknocker

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.platform == "win32":
    _Sleep = ctypes.PyDLL("kernel32").Sleep

    def hold(seconds: float) -> None:
        """Hold the GIL for about so long: a C function that does not release it."""
        _Sleep(round(seconds * 1e3))
else:
    _usleep = ctypes.PyDLL(None).usleep

    def hold(seconds: float) -> None:
        """Hold the GIL for about so long: a C function that does not release it."""
        _usleep(round(seconds * 1e6))


def holds(held: float, free: float) -> Callable[[float], float]:
    """Make a player of whole cycles of so many seconds without the GIL and so many with it."""

    def play(seconds: float) -> float:
        total = 0.0
        start = now = time.perf_counter()
        while now - start < seconds:
            time.sleep(free)
            before = time.perf_counter()
            hold(held)
            now = time.perf_counter()
            total += now - before
        return total / (now - start)

    return play


def idle(seconds: float) -> float:
    """Sleep."""
    time.sleep(seconds)
    return 0.0


def hot_loop(seconds: float) -> float:
    """Run Python code that gives the GIL up only when it must, every switch interval: who asks for it waits."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return 1.0


def gil_free(seconds: float) -> float:
    """Keep a core busy with hashing, which releases the GIL, but for some microseconds in milliseconds."""
    data = bytes(8_000_000)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        hashlib.sha256(data)
    return 0.0


@dataclass(frozen=True)
class Workload:
    """Something to play in one thread.

    Attributes:
        name: what it is, in a few words.
        seconds: for how long it must be played to show it.
        player: plays it for a number of seconds, or a cycle more, and returns the true contention, in [0, 1].
    """

    name: str
    seconds: float
    player: Callable[[float], float]

    def play(self, seconds: float) -> float:
        """Play it for so many seconds, or a cycle more, and return the true contention: 0 where there is no GIL."""
        truth = self.player(seconds)
        return 0.0 if disabled.unavailable() is None else truth


WORKLOADS = (
    Workload("idle", 3.0, idle),
    Workload("holds of 1 s, 50 ms free", 5.0, holds(1.0, 0.05)),
    Workload("holds of 4 s, 50 ms free", 8.0, holds(4.0, 0.05)),
    Workload("holds of 1 s, 1 s free", 6.0, holds(1.0, 1.0)),
    Workload("holds of 10 ms, 10 ms free", 4.0, holds(0.01, 0.01)),
    Workload("holds of 1 ms, 9 ms free", 4.0, holds(0.001, 0.009)),
    Workload("pure-Python hot loop", 5.0, hot_loop),
    Workload("hashing, GIL released", 3.0, gil_free),
)


def _start_gilknocker() -> Any:
    # On a free-threaded interpreter its import could switch the GIL on.
    if disabled.unavailable() is None or gilknocker.unavailable() is not None:
        return None
    from gilknocker import KnockKnock

    knocker = KnockKnock()
    knocker.start()
    return knocker


def _main() -> None:
    # Ctrl-C is the parent's. When it is gone, whatever the reason, standard input ends, and this process with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests: SimpleQueue[str] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            requests.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    knocker = _start_gilknocker()
    while True:
        index, seconds = requests.get().split()
        if knocker:
            knocker.reset_contention_metric()
        truth = WORKLOADS[int(index)].play(float(seconds))
        answer = {"truth": truth, "gilknocker": knocker.contention_metric if knocker else None}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
