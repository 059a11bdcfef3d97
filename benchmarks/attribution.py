"""Whom otel-gil credits with the GIL, against workloads that know for how long each of their threads had it.

`python -m benchmarks.attribution WORKLOAD SECONDS` is the process that is measured; `played` runs it.

The truth is a thread's CPU time, as a thread that runs Python code has the GIL, and for a call of C that sleeps with
the GIL the time that it takes. What that misses:

- A thread without a core can have the GIL all the same. On a busy machine the CPU times are too small for it, and the
  clock of a hold is not: the shares of computing threads stay right beside each other, and get too small beside holds.
- To wait for the GIL, and to hand it over, costs CPU time without it: some 20 µs a time, of 5 ms or more.
- Nobody has it while it is handed over.
- Where the kernel has no slices (before Linux 6.12), functions that make system calls are seen more often than their CPU
  time says, such as those here that take it: a look that is late because its core is taken comes at such a call.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from benchmarks.contestants import OtelGil, UnavailableError
from benchmarks.workloads import ROOT

_METRIC = "cpython.gil.held.time"

_SETTLED = 1.0
"""Seconds without work in which all that was held gets into the metrics."""

Seconds = dict[tuple[str, str], float]
"""Of each thread and function. The function is empty for the rest of them."""

_usleep = ctypes.PyDLL(None).usleep


class Task(NamedTuple):
    """Something to do with the GIL.

    Attributes:
        function: the innermost one of Python while it is done, as otel-gil names it.
        do: does it, and returns the seconds for which that function had the GIL, and its seconds of CPU.
    """

    function: str
    do: Callable[[], tuple[float, float]]


class Worker(NamedTuple):
    """A thread.

    Attributes:
        thread: its name, as otel-gil says it.
        tasks: what it does by turns.
        pause: seconds that it sleeps after each.
    """

    thread: str
    tasks: Sequence[Task]
    pause: float = 0.0


def spin(rounds: int) -> None:
    """Compute in Python."""
    total = 0
    for n in range(rounds):
        total += n % 7


def hold(seconds: float) -> tuple[float, float]:
    """Hold the GIL by a call of C that sleeps."""
    cpu = time.thread_time()
    # The calls are made by C, as between two of Python code the thread could lose the GIL, and the clock go on.
    calls = partial(time.perf_counter), partial(_usleep, round(seconds * 1e6)), partial(time.perf_counter)
    before, _, after = map(partial.__call__, calls)
    return after - before, time.thread_time() - cpu


def _spin() -> tuple[float, float]:
    before = time.thread_time()
    spin(200_000)
    seconds = time.thread_time() - before
    return seconds, seconds


_TEXT = json.dumps([{"id": n, "name": f"name {n}", "value": n / 7, "tags": ["a", "b"]} for n in range(6000)])


def _parse() -> tuple[float, float]:
    before = time.thread_time()
    parsed = json.loads(_TEXT)  # a name, as to throw it away is not the parser's
    seconds = time.thread_time() - before
    del parsed
    return seconds, seconds


POOL = "ThreadPoolExecutor"
_RAW_DECODE = json.JSONDecoder.raw_decode.__code__
# CPython 3.10 has no qualified names for the recorder.
PARSING = Task(f"json.decoder.{getattr(_RAW_DECODE, 'co_qualname', _RAW_DECODE.co_name)}", _parse)
SPINNING = Task("benchmarks.attribution.spin", _spin)


def holding(seconds: float) -> Task:
    return Task("benchmarks.attribution.hold", partial(hold, seconds))


WORKLOADS: dict[str, Sequence[Worker]] = {
    "JSON parser, hot loop, holds": (
        Worker("parser", [PARSING]),
        Worker("loop", [SPINNING]),
        Worker("holder", [holding(0.012)], pause=0.01),
    ),
    "thread pool: JSON, loop, holds": [Worker(POOL, [PARSING, SPINNING, SPINNING, holding(0.008)])] * 3,
    "JSON parser, hot loop": (Worker("parser", [PARSING]), Worker("loop", [SPINNING])),
    "holds of 3 ms and of 9 ms": (
        Worker("short", [holding(0.003)], pause=0.01),
        Worker("long", [holding(0.009)], pause=0.01),
    ),
}


def played(workload: str, seconds: float) -> dict[str, Any]:
    """Play a workload in a process of its own for so many seconds.

    Returns:
        `truth` and `held`, lists of thread, function and seconds; or `problem`, why that could not be measured.
    """
    command = [sys.executable, "-m", "benchmarks.attribution", workload, str(seconds)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    process = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        return {"problem": f"ended with {process.returncode}"}
    answer: dict[str, Any] = json.loads(process.stdout)
    return answer


def work(worker: Worker, seconds: float) -> Seconds:
    """Be a worker for so many seconds, or a round of its tasks more; for how long it had the GIL."""
    held: Seconds = defaultdict(float)
    computing = 0.0
    start, cpu = time.perf_counter(), time.thread_time()
    while time.perf_counter() - start < seconds:
        for task in worker.tasks:
            seconds_held, seconds_computed = task.do()
            held[worker.thread, task.function] += seconds_held
            computing += seconds_computed
            if worker.pause:
                time.sleep(worker.pause)
    held[worker.thread, ""] += time.thread_time() - cpu - computing
    return held


def _play(workers: Sequence[Worker], seconds: float) -> Seconds:
    """Let them work together; for how long each had the GIL."""
    found: list[Seconds] = []

    def record(worker: Worker) -> None:
        found.append(work(worker, seconds))

    threads = [
        threading.Thread(target=record, args=(each,), name=each.thread) for each in workers if each.thread != POOL
    ]
    for thread in threads:
        thread.start()
    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(record, [each for each in workers if each.thread == POOL]))
    for thread in threads:
        thread.join()
    total: Seconds = defaultdict(float)
    for each in found:
        for holder, held in each.items():
            total[holder] += held
    return total


def _measured(workload: str, seconds: float) -> dict[str, Any]:
    monitor = OtelGil()
    try:
        monitor.start()
        time.sleep(_SETTLED)
        before = monitor.times(_METRIC)
        begin = time.perf_counter()
        truth = _play(WORKLOADS[workload], seconds)
        elapsed = time.perf_counter() - begin
        time.sleep(_SETTLED)
        held = {holder: after - before.get(holder, 0.0) for holder, after in monitor.times(_METRIC).items()}
    except UnavailableError as reason:
        return {"problem": str(reason)}
    return {"truth": _rows(truth), "held": _rows(held), "seconds": elapsed}


def _rows(seconds: Seconds) -> list[tuple[str, str, float]]:
    return [(*holder, held) for holder, held in seconds.items()]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measured(sys.argv[1], float(sys.argv[2]))) + "\n")
