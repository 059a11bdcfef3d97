"""What monitors cost. `python -m benchmarks.costs NAME …` is the process that is measured; the functions run it.

Times are compared within one process or one round, in turns, as a shared machine's speed drifts.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from random import Random
from statistics import median, quantiles
from typing import Any

from benchmarks.clients import client
from benchmarks.contestants import AT_INTERVALS, CONTESTANTS, OURS, POISSON, WITHOUT_HOLDERS, UnavailableError
from benchmarks.play import Play
from benchmarks.workloads import ROOT, WORKLOADS

CONDITIONS = (
    "idle",
    "hold 10 ms, free 10 ms",
    "pure-Python hot loop",
    "two hot loops",
    "asyncio server, handlers of 4 ms",
)
"""Workloads in which the CPU time of monitors is measured: their threads' alone."""

IN_PROCESS = (OURS, POISSON, *AT_INTERVALS, "gilknocker", "Dask")

SAMPLERS = (OURS, POISSON)
"""Of which also those costs are measured that only otel-gil is asked for."""

THREADS = (1, 10, 100, 500)

_FUNCTIONS = 20
"""That have held the GIL when callbacks are measured: as many as are given at once."""

_WORK = 0.02
"""Seconds of CPU that each of the threads has worked then."""

_WARM_UP = 2.0
"""Seconds before the CPU time counts: otel-gil looks less often when it has seen the same for more than half a second."""

Players = Callable[[Sequence[Play]], list[dict[str, Any]]]
"""`benchmarks.play.play`."""

Pairs = list[tuple[float, float]]
"""With and without the monitor."""


def cpu(
    players: Players, monitors: Sequence[str], condition: str, seconds: float, rounds: int
) -> list[dict[str, float]]:
    """CPU seconds per second of monitors, in each round: all at once, or in turns for lack of cores."""
    names = (*monitors, *([WITHOUT_HOLDERS] if OURS in monitors else ()))
    found = []
    for n in range(rounds):
        plays = [Play(name, condition, seconds, n, _WARM_UP) for name in rotated(names, n)]
        answers = [players([each])[0] for each in plays] if WORKLOADS[condition].busy else players(plays)
        found.append(
            {
                each.contestant: answer["cpu"]
                for each, answer in zip(plays, answers, strict=True)
                if "problem" not in answer
            }
        )
    return found


def rotated(names: Sequence[str], n: int) -> list[str]:
    """Another begins each time."""
    n %= len(names)
    return [*names[n:], *names[:n]]


def slow_down(contestant: str, seconds: float, pairs: int) -> Pairs:
    """Seconds for the same work of four threads of pure Python.

    Raises:
        UnavailableError: the contestant can't measure.
    """
    found: Any = _run("slow-down", contestant, str(seconds), str(pairs))
    if isinstance(found, str):
        raise UnavailableError(found)
    return [(with_it, without) for with_it, without in found]


def callback(contestant: str, seconds: float) -> list[dict[str, float]]:
    """Seconds of a reading, as each callback makes one, while there are threads that have worked, and are idle now.

    Before, for so many seconds, many functions had the GIL in turn.

    Warm is one of many in a row. Cold is after a sleep, beside a call that does nothing. A collection is all callbacks.
    """
    found: list[dict[str, float]] = _run("callback", contestant, str(seconds))
    return found


def latency(contestant: str, seconds: float, pairs: int) -> dict[str, Pairs]:
    """Median and p99 of the seconds that an asyncio server takes to echo, with the contestant and without, in turns.

    Here are the clients: eight, with pauses of 10 ms.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket"
        command = [sys.executable, "-m", "benchmarks.costs", "echo", path, contestant]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin and server.stdout

            def toggle() -> None:
                server.stdin.write("\n")  # type: ignore[union-attr]
                server.stdin.flush()  # type: ignore[union-attr]
                server.stdout.readline()  # type: ignore[union-attr]

            def played(on: bool, seed: int) -> tuple[float, float]:
                if on:
                    toggle()
                latencies = asyncio.run(_echoes(path, seconds, seed))
                if on:
                    toggle()
                return median(latencies), quantiles(latencies, n=100)[98]

            try:
                toggle()  # when that is answered it serves
                toggle()
                found = [
                    {on: played(on, n) for on in ((True, False) if n % 2 else (False, True))} for n in range(pairs)
                ]
            finally:
                server.kill()
    return {
        quantile: [(each[True][k], each[False][k]) for each in found] for k, quantile in enumerate(("median", "p99"))
    }


async def _echoes(path: str, seconds: float, seed: int) -> list[float]:
    clients = [asyncio.create_task(client(path, Random(100 * seed + k), pause=0.01, work=0)) for k in range(8)]
    await asyncio.sleep(seconds)
    for each in clients:
        each.cancel()
    return [one for each in clients for one in await each]


def _run(*arguments: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.costs", *arguments]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _work(rounds: int) -> float:
    """Seconds that four threads of pure Python take."""

    def work() -> None:
        total = 0
        for n in range(rounds):
            total += n % 7

    threads = [threading.Thread(target=work) for _ in range(4)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def _slow_down(name: str, seconds: float, pairs: int) -> Pairs | str:
    monitor = CONTESTANTS[name]()
    try:
        monitor.start()
    except (UnavailableError, ImportError) as reason:
        return str(reason)
    monitor.stop()
    rounds = int(200_000 * seconds / _work(200_000))
    found = []
    for n in range(pairs):
        without = 0.0
        if n % 2:
            without = _work(rounds)
        monitor.start()
        with_it = _work(rounds)
        monitor.stop()
        found.append((with_it, without or _work(rounds)))
    return found


def _callback(name: str, seconds: float) -> list[dict[str, float]]:
    from otel_gil._instrumentor import measuring

    monitor = CONTESTANTS[name]()
    monitor.start()
    code = "def f{}(end):\n    while perf_counter() < end: pass\nf{}(perf_counter() + {})"
    for n in range(_FUNCTIONS):
        exec(code.format(n, n, seconds / _FUNCTIONS), {"perf_counter": time.perf_counter})
    found = measuring()
    assert found
    _, metrics = found

    def duration(call: Callable[[], Any], *, warm: bool) -> float:
        durations = []
        for _ in range(100):
            time.sleep(0.002)
            for _ in range(10 if warm else 1):
                begin = time.perf_counter()
                call()
            durations.append(time.perf_counter() - begin)
        return median(durations)

    rows = []
    never = threading.Event()
    idle = threading.Semaphore(0)

    def work() -> None:
        while time.thread_time() < _WORK:
            pass
        idle.release()
        never.wait()

    started = 0
    for count in THREADS:
        for n in range(started, count):
            threading.Thread(target=work, name=f"worker-{n}", daemon=True).start()
        for _ in range(started, count):
            idle.acquire()
        started = count
        rows.append(
            {
                "threads": count,
                "warm": duration(metrics.read, warm=True),
                "cold": duration(metrics.read, warm=False),
                "nothing": duration(lambda: None, warm=False),
                "collection": duration(monitor.begin, warm=True),
            }
        )
    return rows


async def _echo(path: str, contestant: str) -> None:
    """An echo server; a line on standard input switches the contestant on or off, and is answered."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    await asyncio.start_unix_server(handle, path)
    monitor = CONTESTANTS[contestant]()
    for toggle in cycle((monitor.start, monitor.stop)):
        line = await asyncio.to_thread(sys.stdin.readline)
        toggle()
        sys.stdout.write(line)
        sys.stdout.flush()


def _main(name: str, *arguments: str) -> None:
    if name == "echo":
        asyncio.run(_echo(*arguments))
        return
    if name == "slow-down":
        contestant, seconds, pairs = arguments
        found: Any = _slow_down(contestant, float(seconds), int(pairs))
    else:
        contestant, seconds = arguments
        found = _callback(contestant, float(seconds))
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)  # at an orderly exit gilknocker waits, or aborts


if __name__ == "__main__":
    _main(*sys.argv[1:])
