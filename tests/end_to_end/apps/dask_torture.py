"""A Dask cluster with a worker process for each of the phases in argv[1] (JSON: seconds to hold the GIL, and to leave it).

Writes the workers' HTTP ports, waits for a file `go`, plays each phase for argv[2] seconds or a cycle more, and writes
when it began, when it ended, and for how many seconds the GIL was held, at least and at most.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from distributed import Client, LocalCluster


def play(hold: float, gap: float, seconds: float) -> tuple[float, float, float, float]:
    """The task: holds of the GIL, or a hot loop where there is no gap between them.

    The GIL is held while the loop runs. While it waits for a core, on a busy machine, another thread can have released
    it: for how long it was held is known between two bounds only.
    """
    import ctypes  # the function is sent to workers

    usleep = ctypes.PyDLL(None).usleep
    held = 0.0
    start = now = time.time()
    start_of_cpu = time.thread_time()
    while now - start < seconds:
        if gap:
            usleep(round(hold * 1e6))
        before, now = now, time.time()
        held += now - before
        if gap:
            time.sleep(gap)
            now = time.time()
    return start, now, held if gap else time.thread_time() - start_of_cpu, held


if __name__ == "__main__":
    phases = json.loads(sys.argv[1])
    with (
        LocalCluster(
            n_workers=len(phases),
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        workers = client.scheduler_info()["workers"]
        # What a worker imports for its first task is not part of it.
        client.gather([client.submit(play, 0, 0.1, 0.1, workers=[address], pure=False) for address in workers])
        ports = {name: worker["services"]["dashboard"] for name, worker in zip(phases, workers.values())}
        print(json.dumps(ports), flush=True)
        while not Path("go").exists():
            time.sleep(0.1)
        tasks = {
            name: client.submit(play, *phase, float(sys.argv[2]), workers=[address], pure=False)
            for (name, phase), address in zip(phases.items(), workers)
        }
        print(json.dumps({name: task.result() for name, task in tasks.items()}), flush=True)
        sys.stdin.read()
