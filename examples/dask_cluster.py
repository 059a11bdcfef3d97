"""The same array twice on a Dask cluster: half of the work in Python, which needs the GIL, half in NumPy, which does not.

    pip install 'otel-gil[dask]' 'dask[array]'
    python dask_cluster.py

After each half it reads what Dask's worker serves under /metrics. An argument is the seconds for each half, 5 by default:
with 60 there is time to look at the dashboard, whose address is printed, and at /metrics.
"""

import sys
import time
from urllib.request import urlopen

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

# The only line that has to do with otel-gil. For `dask worker` it is an option: --preload otel_gil.dask
dask.config.set({"distributed.scheduler.preload": ["otel_gil.dask"], "distributed.worker.preload": ["otel_gil.dask"]})


def collatz(block: np.ndarray) -> np.ndarray:
    """Steps to 1, in Python, for some of the numbers of a block."""

    def steps(n: int) -> int:
        count = 0
        while n > 1:
            n = 3 * n + 1 if n % 2 else n // 2
            count += 1
        return count

    return np.array([[steps(n) for n in block[:20].ravel().tolist()]])


def metrics(port: int) -> dict[str, float]:
    """What a server has under /metrics, by series."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        lines = [line.decode().rsplit(" ", 1) for line in response if not line.startswith(b"#")]
    return {series: float(value) for series, value in lines}


def gil_seconds(port: int) -> tuple[float, float, float]:
    """Blocked and observed seconds of cpython.gil.time, and Dask's own counter of the former."""
    found = metrics(port)
    time = {series: value for series, value in found.items() if series.startswith("cpython_gil_time_seconds_total")}
    (blocked,) = (value for series, value in time.items() if 'cpython_gil_state="blocked"' in series)
    return blocked, sum(time.values()), found["dask_worker_gil_contention_seconds_total"]


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if sys.argv[1:] else 5.0
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        (worker,) = client.scheduler_info()["workers"].values()
        port = worker["services"]["dashboard"]
        print(f"dashboard: {client.dashboard_link}")
        print(f"metrics of the worker: http://127.0.0.1:{port}/metrics")
        array = da.random.random((3_000, 3_000), chunks=(1_500, 1_500)).persist()
        integers = (array * 100_000).astype(int)
        for name, work in ("Python", integers.map_blocks(collatz).sum()), ("NumPy", (array @ array.T).sum()):
            work.compute()  # once without looking, for what is imported and compiled at first
            before = gil_seconds(port)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                work.compute()
            blocked, observed, dask_blocked = (b - a for a, b in zip(before, gil_seconds(port)))
            print(
                f"{name}: contention {blocked / observed:.2f} of the worker"
                f" (cpython_gil_time_seconds_total: {blocked:.2f} s blocked of {observed:.2f} s;"
                f" dask_worker_gil_contention_seconds_total: {dask_blocked:.2f} s)"
            )
