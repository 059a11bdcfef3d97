"""For how long threads wait for the GIL, and which, against workloads that know it, as they make it.

`python -m benchmarks.waits WORKLOAD SECONDS` is the process that is measured; `played` runs it.

Each thread of a workload says for how long it waited, and the workload for how long at least one did:

- One that always wants the GIL waits whenever it does not have it.
- One that sleeps waits for what the sleep takes longer than such a sleep takes without a wait.

Each thread has a core of its own, where there are enough. Else one that has woken can lack a core for some milliseconds
while another one computes: it would wait for the GIL, and has not asked yet, so that nothing outside can tell.

What that misses: the microseconds in which the GIL is handed over, and, on a machine that has no core for each of the
threads, the time in which one that has the GIL, or could take it, has no core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, NamedTuple

from benchmarks.attribution import hold
from benchmarks.contestants import OtelGil, UnavailableError
from benchmarks.workloads import ROOT

_SETTLED = 0.5
"""Seconds without work in which all that was waited gets into the metrics."""

_LATE = 0.0005
"""Seconds by which a sleep that is longer than others has waited for the GIL."""


_SLEEP = 0.06
_WAKE_UP = 0.0001
"""Seconds that such a sleep takes more than it should."""


class Waited(NamedTuple):
    """What a workload knows.

    Attributes:
        seconds: for which it was played.
        contended: seconds in which at least one of its threads waited.
        threads: seconds that each of its threads waited, by name.
    """

    seconds: float
    contended: float
    threads: dict[str, float]


Player = Callable[[float], Waited]
"""Plays for a number of seconds, or a cycle more."""


def _bind(number: int, count: int) -> None:
    """Give this thread, one of so many, a core of its own, where there are enough and that can be done."""
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= count:
            with suppress(OSError):  # a core is gone
                os.sched_setaffinity(0, {cores[number]})


def together(threads: dict[str, Callable[[], None]]) -> float:
    """Run them all, each in a thread of that name; the seconds that it took."""
    ready = threading.Barrier(len(threads) + 1)

    def run(number: int, do: Callable[[], None]) -> None:
        _bind(number, len(threads))
        ready.wait()
        do()

    started = [
        threading.Thread(target=run, args=(number, do), name=name) for number, (name, do) in enumerate(threads.items())
    ]
    for thread in started:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in started:
        thread.join()
    return time.perf_counter() - begin


def late(sleeps: Sequence[float]) -> float:
    """Seconds waited after sleeps that took so long: what most of them take is taken by those that did not wait."""
    usual = median(sleeps)
    return sum(sleep - usual for sleep in sleeps if sleep > usual + _LATE)


def timed_sleep(seconds: float) -> float:
    before = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - before


def _spin(end: float) -> None:
    while time.perf_counter() < end:
        pass


def hot_loops(count: int) -> Player:
    """Loops of Python that all want the GIL all the time: all but one wait, each as long as the others."""

    def play(seconds: float) -> Waited:
        end = time.perf_counter() + seconds
        names = [f"loop {chr(ord('a') + n)}" for n in range(count)]
        elapsed = together({name: lambda: _spin(end) for name in names})
        contended = elapsed if count > 1 else 0.0
        return Waited(elapsed, contended, dict.fromkeys(names, elapsed * (count - 1) / count))

    return play


def holds_alone(seconds: float) -> Waited:
    """Calls of C of 30 ms with the GIL, which nobody else wants."""
    end = time.perf_counter() + seconds

    def holder() -> None:
        while time.perf_counter() < end:
            hold(0.03)
            time.sleep(0.07)

    return Waited(together({"holder": holder}), 0.0, {"holder": 0.0})


def holds_beside_sleeper(seconds: float) -> Waited:
    """The same, and a thread that sleeps for 1 ms at a time: it waits as soon as a sleep ends in a hold."""
    end = time.perf_counter() + seconds
    sleeps: list[float] = []

    def holder() -> None:
        while time.perf_counter() < end:
            hold(0.03)
            time.sleep(0.07)

    def sleeper() -> None:
        while time.perf_counter() < end:
            sleeps.append(timed_sleep(0.001))

    elapsed = together({"holder": holder, "sleeper": sleeper})
    waited = late(sleeps)
    return Waited(elapsed, waited, {"sleeper": waited, "holder": 0.0})


def holds_beside_loop(seconds: float) -> Waited:
    """The same beside a loop of Python: it waits while the GIL is held, and the other one until the loop gives it up.

    That one waits twice for a switch interval of 5 ms: after its sleep, and before the next, as it has been asked to
    give the GIL up while it was in C, and does so when it comes back. It holds, or sleeps, or waits.
    """
    end = time.perf_counter() + seconds
    held: list[float] = []
    threads = {}

    def holder() -> None:
        begin = time.perf_counter()
        while time.perf_counter() < end:
            held.append(hold(0.03)[0])
            time.sleep(_SLEEP)
        threads["holder"] = time.perf_counter() - begin - sum(held) - len(held) * (_SLEEP + _WAKE_UP)

    elapsed = together({"holder": holder, "loop": lambda: _spin(end)})
    threads["loop"] = sum(held)
    return Waited(elapsed, sum(threads.values()), threads)


def holds_by_turns(seconds: float) -> Waited:
    """Two threads that hold the GIL by calls of C, of 3 and of 9 ms: each waits while the other one has it.

    After the switch interval of 5 ms the one that waits asks, and gets it when the call ends: by turns one of 9 ms, and
    two of 3 ms.
    """
    end = time.perf_counter() + seconds
    waited: dict[str, float] = {}

    def holder(name: str, length: float) -> Callable[[], None]:
        def run() -> None:
            held = 0.0
            begin = time.perf_counter()
            while time.perf_counter() < end:
                held += hold(length)[0]
            waited[name] = time.perf_counter() - begin - held

        return run

    elapsed = together({name: holder(name, length) for name, length in (("short", 0.003), ("long", 0.009))})
    return Waited(elapsed, elapsed, waited)


WORKLOADS: dict[str, Player] = {
    "two hot loops": hot_loops(2),
    "four hot loops": hot_loops(4),
    "one hot loop": hot_loops(1),
    "hold 30 ms, free 70 ms": holds_alone,
    "hold 30 ms, free 70 ms, beside sleeps of 1 ms": holds_beside_sleeper,
    "hold 30 ms, sleep 60 ms, beside a hot loop": holds_beside_loop,
    "holds of 3 ms and of 9 ms by turns": holds_by_turns,
}


def played(workload: str, seconds: float) -> dict[str, Any]:
    """Play a workload in a process of its own for so many seconds.

    Returns:
        `seconds` for which it was played; `truth` and `estimate`, each with seconds `contended` and those that
        `threads` waited, by name; or `problem`, why that could not be measured.
    """
    command = [sys.executable, "-m", "benchmarks.waits", workload, str(seconds)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    process = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        return {"problem": f"ended with {process.returncode}"}
    answer: dict[str, Any] = json.loads(process.stdout)
    return answer


def _read(monitor: OtelGil) -> tuple[float, dict[str, float]]:
    """Seconds contended, and waited by each thread."""
    contended = monitor.times("cpython.gil.contended.time")
    if not contended:
        raise UnavailableError("it does not say how long the GIL was contended")
    threads: dict[str, float] = {}
    for (thread, _), seconds in monitor.times("cpython.gil.wait.time").items():
        threads[thread] = threads.get(thread, 0.0) + seconds
    return sum(contended.values()), threads


def _measured(workload: str, seconds: float) -> dict[str, Any]:
    monitor = OtelGil()
    try:
        monitor.start()
        time.sleep(_SETTLED)
        contended, threads = _read(monitor)
        truth = WORKLOADS[workload](seconds)
        time.sleep(_SETTLED)
        contended_after, threads_after = _read(monitor)
    except UnavailableError as reason:
        return {"problem": str(reason)}
    return {
        "seconds": truth.seconds,
        "truth": {"contended": truth.contended, "threads": truth.threads},
        "estimate": {
            "contended": contended_after - contended,
            "threads": {name: after - threads.get(name, 0.0) for name, after in threads_after.items()},
        },
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measured(sys.argv[1], float(sys.argv[2]))) + "\n")
