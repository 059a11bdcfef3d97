"""The memory that otel-gil takes: `python -m benchmarks.memory CONTESTANT SECONDS NAMES`.

A module of its own, as nothing else that the bench imports may be in the process before.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contestants import CONTESTANTS

ROOT = Path(__file__).parent.parent

KINDS = ("Rss", "Anonymous")
"""What is resident: with the pages of files, such as libraries, that processes share, and without."""


_NAMES = 2500
"""More than otel-gil adds."""


def grown(contestant: str, seconds: float, runs: int) -> list[dict[str, float]]:
    """Bytes by which a process grows by otel-gil, by kind: with import, extension, so many seconds, and a reading.

    Python keeps all names in one table, which grows by half a megabyte at once when it is full, whoever's the next name
    is. So each run has some more names in it before. The package is compiled first, as pip does: to compile it in the
    process takes half a megabyte.
    """
    package = importlib.util.find_spec("otel_gil")  # which does not import it
    assert package
    assert package.submodule_search_locations
    subprocess.run([sys.executable, "-m", "compileall", "-q", *package.submodule_search_locations], check=True)
    command = [sys.executable, "-m", "benchmarks.memory", contestant, str(seconds)]
    return [
        json.loads(
            subprocess.run([*command, str(n * _NAMES)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        )
        for n in range(runs)
    ]


def _resident() -> dict[str, int]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    sizes = {name.rstrip(":"): int(size) * 1024 for name, size, *_ in map(str.split, lines[1:])}
    return {kind: sizes[kind] for kind in KINDS}


def _main() -> None:
    import opentelemetry.instrumentation.instrumentor  # what an instrumented process has anyway
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    MeterProvider([reader]).get_meter("nothing").create_counter("nothing").add(1)
    reader.get_metrics_data()
    contestant = CONTESTANTS[sys.argv[1]]()
    names = [sys.intern(f"a name of the application: {n}") for n in range(int(sys.argv[3]))]
    _resident()  # what it takes itself
    before = _resident()
    contestant.start()
    time.sleep(float(sys.argv[2]))
    contestant.begin()
    after = _resident()
    del names
    sys.stdout.write(json.dumps({kind: after[kind] - before[kind] for kind in KINDS}) + "\n")


if __name__ == "__main__":
    _main()
