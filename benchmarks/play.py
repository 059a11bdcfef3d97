"""One workload, one contestant, one process: `python -m benchmarks.play CONTESTANT WORKLOAD SECONDS SEED WARM_UP`.

It says `ready`, waits for a line on its standard input (so that several begin together), lets the monitor warm up
while the workload plays for WARM_UP seconds, and then plays it in a window of at least SECONDS. The answer is a line of
JSON:

truth, estimate  contention in the window, as the workload and as the monitor has it
seconds          length of the window
cpu              CPU seconds per second of all threads but those of the workload
problem          in place of all that, why the monitor could not measure
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, NamedTuple

from benchmarks.contestants import CONTESTANTS, UnavailableError
from benchmarks.workloads import ROOT, WORKLOADS

_PATIENCE = 60.0
"""Seconds after which one that should have ended long ago is given up."""


class Play(NamedTuple):
    """What is to be played."""

    contestant: str
    workload: str
    seconds: float
    seed: int
    warm_up: float = 1.0


def play(plays: Sequence[Play]) -> list[dict[str, Any]]:
    """Play all at the same time, each in a process of its own; the answers."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(each)) for each in plays]
        # Of one that can't measure it is the answer already.
        first_lines = [process.stdout.readline() for process, _ in processes]
        for process, _ in processes:
            with suppress(BrokenPipeError):
                process.stdin.write("\n")
                process.stdin.flush()
        return [
            _answer(first, *process, each.seconds)
            for first, process, each in zip(first_lines, processes, plays, strict=True)
        ]


@contextmanager
def _process(each: Play) -> Iterator[tuple[Any, IO[str]]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-m", "benchmarks.play", *map(str, each)]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+", errors="replace") as stderr,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=stderr, text=True
        ) as process,
    ):
        try:
            yield process, stderr
        finally:
            process.kill()


def _answer(first: str, process: Any, stderr: IO[str], seconds: float) -> dict[str, Any]:
    try:
        rest, _ = process.communicate(timeout=seconds + _PATIENCE)
    except subprocess.TimeoutExpired:
        return {"problem": f"no answer {_PATIENCE:.0f} s after the end"}
    if process.returncode:
        stderr.seek(0)
        said = stderr.read().strip().splitlines() or [""]
        return {"problem": f"ended with {process.returncode}: {said[-1]}"}
    answer: dict[str, Any] = json.loads((rest or first).splitlines()[-1])
    return answer


@contextmanager
def _workload_cpu() -> Iterator[Callable[[], float]]:
    """CPU seconds that threads have taken so far that have been started in here, and of this one."""
    ended: list[float] = []
    run = threading.Thread.run

    def run_and_tell(self: threading.Thread) -> None:
        run(self)
        ended.append(time.thread_time())

    threading.Thread.run = run_and_tell  # type: ignore[method-assign]
    try:
        yield lambda: time.thread_time() + sum(ended)
    finally:
        threading.Thread.run = run  # type: ignore[method-assign]


def _measured(play: Play) -> dict[str, Any]:
    contestant = CONTESTANTS[play.contestant]()
    with WORKLOADS[play.workload].setup(play.seed) as player:
        try:
            contestant.start()
            _say("ready")
            sys.stdin.readline()
            player(play.warm_up)
            contestant.begin()
            with _workload_cpu() as workload_cpu:
                begin, cpu = time.perf_counter(), time.process_time() - workload_cpu()
                truth = player(play.seconds)
                seconds, cpu = time.perf_counter() - begin, time.process_time() - workload_cpu() - cpu
            estimate = contestant.end()
        except (UnavailableError, ImportError) as reason:
            return {"problem": str(reason)}
    return {"truth": truth, "estimate": estimate, "seconds": seconds, "cpu": cpu / seconds}


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    contestant, workload, seconds, seed, warm_up = sys.argv[1:]
    _say(json.dumps(_measured(Play(contestant, workload, float(seconds), int(seed), float(warm_up)))))
    os._exit(0)  # at an orderly exit gilknocker waits, or aborts
