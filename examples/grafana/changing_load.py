"""A process whose load changes every minute, for a look at the dashboard.

    pip install 'otel-gil[prometheus]'
    opentelemetry-instrument --metrics_exporter prometheus --traces_exporter none --logs_exporter none \\
        python changing_load.py

With an argument, it changes every so many seconds.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from otel_gil._cli.workloads import gil_free, holds, hot_loop, idle

LOADS: dict[str, list[Callable[[float], float]]] = {
    "idle": [idle],
    "Python code": [hot_loop],
    "C calls of 2.5 s": [holds(2.5, 0.3)],
    "native code": [gil_free, gil_free],
}
"""What the threads do: nothing; need the GIL all the time; hold it without using the CPU; use the CPU without it."""


def main() -> None:
    """Play them, one after another, again and again, and say which."""
    seconds = float(sys.argv[1]) if sys.argv[1:] else 60.0
    with ThreadPoolExecutor() as pool:
        while True:
            for name, players in LOADS.items():
                print(name, flush=True)
                for playing in [pool.submit(player, seconds) for player in players]:
                    playing.result()


if __name__ == "__main__":
    main()
