"""The memory that otel-gil takes: `python -m benchmarks.memory CONTESTANT SECONDS`.

A module of its own, as nothing else that the bench imports may be in the process before.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contestants import CONTESTANTS

ROOT = Path(__file__).parent.parent


def grown(contestant: str, seconds: float, runs: int) -> list[float]:
    """Bytes by which a process grows by otel-gil, import and so many seconds of history included."""
    command = [sys.executable, "-m", "benchmarks.memory", contestant, str(seconds)]
    return [
        float(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)
        for _ in range(runs)
    ]


def _resident() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon"))


def _main() -> None:
    import opentelemetry.instrumentation.instrumentor
    import opentelemetry.sdk.metrics.export  # noqa: F401 - what an instrumented process has anyway

    before = _resident()
    CONTESTANTS[sys.argv[1]]().start()
    time.sleep(float(sys.argv[2]))
    sys.stdout.write(f"{_resident() - before}\n")


if __name__ == "__main__":
    _main()
