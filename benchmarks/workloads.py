"""Workloads that know their contention of the GIL, because they make it.

Most hold the GIL by a call of C that does no work, and sleep in between. Such a player takes the time of its sleeps,
and the rest is contention: it has the GIL from the end of one sleep to the beginning of the next. Too little by the
entry to and the exit from `time.sleep`, in which it has the GIL too: microseconds a cycle, which only the shortest
shows (hold 100 µs: otel-gil at 1 ms in 30 s read .522 for .500, and py-spy in 20 s .528 for .511).

The others need a core or more. How right they are is said where it is not exact. What the monitor in the process
holds of the GIL for itself, some microseconds at a time, is in no truth.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from random import Random

from otel_gil._cli import workloads

ROOT = Path(__file__).parent.parent

Player = Callable[[float], float]
"""Plays for a number of seconds, or a cycle more, and returns the true contention, in [0, 1]."""

Cycles = Callable[[Random], Iterator[tuple[float, float]]]
"""Makes an endless succession of pairs: seconds without the GIL, seconds with it."""


def constant(free: float, held: float) -> Cycles:
    return lambda _: repeat((free, held))


def log_normal(random: Random) -> Iterator[tuple[float, float]]:
    """Both log-normally distributed, with σ = 1 and 1.2: holds of 23 ms on average, and one in a hundred of 180 ms."""
    while True:
        yield random.lognormvariate(-4, 1), random.lognormvariate(-4.5, 1.2)


def bursts(random: Random) -> Iterator[tuple[float, float]]:
    """An exponentially distributed pause of 500 ms on average, and then a train of holds 0.5 ms apart."""
    while True:
        yield random.expovariate(1 / 0.5), 0.002
        for _ in range(random.randint(50, 150)):
            yield 0.0005, 0.002


def poisson_stream(random: Random) -> Iterator[tuple[float, float]]:
    """Holds of one length after exponentially distributed pauses."""
    while True:
        yield random.expovariate(1 / 0.004), 0.001


CYCLES: dict[str, Cycles] = {
    "hold 1 s, free 50 ms": constant(0.05, 1),
    "hold 4 s, free 50 ms": constant(0.05, 4),
    "hold 1 s, free 1 s": constant(1, 1),
    "hold 100 ms, free 100 ms": constant(0.1, 0.1),
    "hold 30 ms, free 30 ms": constant(0.03, 0.03),
    "hold 10 ms, free 10 ms": constant(0.01, 0.01),
    "hold 1 ms, free 1 ms": constant(0.001, 0.001),
    "hold 1 ms, free 9 ms": constant(0.009, 0.001),
    "hold 100 µs, free 100 µs": constant(0.0001, 0.0001),
    "log-normal, medians: hold 11 ms, free 18 ms": log_normal,
    "bursts of 50 to 150 holds of 2 ms": bursts,
    "Poisson stream: hold 1 ms, free 4 ms": poisson_stream,
}


@dataclass(frozen=True)
class Workload:
    """Something to play.

    Attributes:
        setup: given a seed, gets ready, yields the player, and tidies up.
        busy: it needs a core or more, so that two at a time would disturb each other.
    """

    setup: Callable[[int], AbstractContextManager[Player]]
    busy: bool


def _cycles(cycles: Cycles) -> Workload:
    @contextmanager
    def setup(seed: int) -> Iterator[Player]:
        def play(seconds: float) -> float:
            asleep = 0.0
            start = now = time.perf_counter()
            for free, held in cycles(Random(seed)):
                before = time.perf_counter()
                time.sleep(free)
                asleep += time.perf_counter() - before
                workloads.hold(held)
                now = time.perf_counter()
                if now - start >= seconds:
                    break
            return 1 - asleep / (now - start)

        yield play

    return Workload(setup, busy=False)


def _simple(player: Player, *, busy: bool) -> Workload:
    @contextmanager
    def setup(_: int) -> Iterator[Player]:
        yield player

    return Workload(setup, busy)


def _together(player: Player, threads: int) -> Player:
    """The same in several threads. The truth is that of one."""

    def play(seconds: float) -> float:
        others = [threading.Thread(target=player, args=(seconds,)) for _ in range(threads - 1)]
        for thread in others:
            thread.start()
        truth = player(seconds)
        for thread in others:
            thread.join()
        return truth

    return play


def _hashing(seconds: float) -> float:
    """Hash 8 MB at a time without the GIL, some 20 ms of it. Between them are a few microseconds with the GIL.

    On a machine without a free core such a thread can lose its core while it has the GIL, and the truth is then a
    little above 0: below .005 where the machine is this workload's alone, and up to .02 where others compete for it,
    as py-spy's samples say, too.
    """
    return workloads.gil_free(seconds)


@contextmanager
def _matmul(seed: int) -> Iterator[Player]:
    """Products of matrices, which NumPy makes without the GIL. In between are some microseconds in tens of ms."""
    import numpy as np

    matrix = np.random.default_rng(seed).random((1000, 1000))
    product = np.empty_like(matrix)

    def play(seconds: float) -> float:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            np.matmul(matrix, matrix, out=product)
        return 0.0

    yield play


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """Seconds in at least one of the intervals."""
    total, last = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, last))
        last = max(last, end)
    return total


@contextmanager
def _pool(seed: int) -> Iterator[Player]:
    """Two threads that parse JSON with the GIL, or compress or take roots without it, by chance.

    `json.loads` of text is one call of C, which keeps the GIL. A thread that has taken the time before it waits only
    for another that parses, or for one that is between two tasks and has the GIL as well: what is in at least one of
    the intervals is contention. Missing are the microseconds between two tasks of some milliseconds, and there is too
    much where the GIL is on its way from one thread to the other: below .005 as long as there is a core for each of
    the two, and about .02 where they have to share it with others. (Read by 20,000 arrivals, otel-gil at 1 ms in 20 s
    on two cores, contention was .69 and .61 where this said .66 and .62.)
    """
    import numpy as np

    random = Random(seed)
    text = json.dumps(
        [{"id": n, "name": f"name {n}", "value": random.random(), "tags": ["a", "b"]} for n in range(6000)]
    )
    data = text.encode()  # which becomes small: memory for much output would be got with the GIL
    numbers = np.random.default_rng(seed).random(4_000_000)
    roots = np.empty_like(numbers)

    def play(seconds: float) -> float:
        start = time.perf_counter()

        def work(random: Random) -> list[tuple[float, float]]:
            parsing = []
            while time.perf_counter() - start < seconds:
                task = random.randrange(3)
                if task == 0:
                    before = time.perf_counter()
                    json.loads(text)
                    parsing.append((before, time.perf_counter()))
                elif task == 1:
                    zlib.compress(data)
                else:
                    np.cbrt(numbers, out=roots)
            return parsing

        with ThreadPoolExecutor(2) as pool:
            parsings = list(pool.map(work, [Random(seed), Random(seed + 1)]))
        return union(sum(parsings, [])) / (time.perf_counter() - start)

    yield play


class _TimedSelector(selectors.DefaultSelector):
    """Takes the time in which there is nothing to do."""

    seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        before = time.perf_counter()
        events = super().select(timeout)
        self.seconds += time.perf_counter() - before
        return events


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        workloads.hot_loop(float(line))
        writer.write(line)


@contextmanager
def _server(seed: int) -> Iterator[Player]:
    """An asyncio server whose handlers compute for some milliseconds. Its clients are another process.

    The loop has the GIL whenever it does not wait in `select`. But it receives and sends without it: some 20 µs of a
    request of 4 ms, by which the truth is too high: below .005. (otel-gil at 1 ms in 30 s read .607 for .602.)
    """
    selector = _TimedSelector()
    loop = asyncio.SelectorEventLoop(selector)
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket"
        connected = loop.create_future()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not connected.done():
                connected.set_result(None)
            await _serve(reader, writer)

        server = loop.run_until_complete(asyncio.start_unix_server(handle, path))
        with subprocess.Popen([sys.executable, "-m", "benchmarks.clients", path, str(seed)], cwd=ROOT) as clients:

            def play(seconds: float) -> float:
                selector.seconds = 0.0
                start = time.perf_counter()
                loop.run_until_complete(asyncio.sleep(seconds))
                return 1 - selector.seconds / (time.perf_counter() - start)

            loop.run_until_complete(connected)
            try:
                yield play
            finally:
                clients.kill()
        server.close()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()


WORKLOADS: dict[str, Workload] = {
    "idle": _simple(workloads.idle, busy=False),
    **{name: _cycles(cycles) for name, cycles in CYCLES.items()},
    "pure-Python hot loop": _simple(workloads.hot_loop, busy=True),
    "two hot loops": _simple(_together(workloads.hot_loop, 2), busy=True),
    "NumPy matmul, GIL released": Workload(_matmul, busy=True),
    "hashing on all cores, GIL released": _simple(_together(_hashing, (os.cpu_count() or 1) + 1), busy=True),
    "thread pool: JSON, zlib, NumPy": Workload(_pool, busy=True),
    "asyncio server, handlers of 4 ms": Workload(_server, busy=True),
}
