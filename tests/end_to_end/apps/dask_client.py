"""A client of the Dask scheduler in argv[1]: plays holds of the GIL on the worker, on the scheduler, on the worker restarted.

Writes the version of distributed, and what `play` gives each time. It is quiet in between.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

from distributed import Client

from .dask_torture import play

HOLDS = (1, 0.3, 3.8)
QUIET = 2  # seconds, in which there is a scrape


def play_on_worker(client: Client) -> tuple[float, float, float, float]:
    """Play, when the worker has imported all that it needs for a task."""
    client.submit(play, 0, 0.1, 0.1, pure=False).result()
    time.sleep(QUIET)
    truth: tuple[float, float, float, float] = client.submit(play, *HOLDS, pure=False).result()
    time.sleep(QUIET)
    return truth


if __name__ == "__main__":
    with Client(sys.argv[1]) as client:
        client.wait_for_workers(1)
        truth = [play_on_worker(client), client.run_on_scheduler(play, *HOLDS)]
        client.restart()
        print(json.dumps({"version": version("distributed"), "truth": [*truth, play_on_worker(client)]}))
