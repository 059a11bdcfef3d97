"""The torture of https://github.com/dask/distributed/issues/8557: a Dask cluster, long holds of the GIL, Prometheus."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, NamedTuple

from .processes import applications, python, wait_for
from .prometheus import Prometheus, Target, serving

if TYPE_CHECKING:
    from collections.abc import Mapping

PRELOAD = {
    "DASK_DISTRIBUTED__SCHEDULER__PRELOAD": '["otel_gil.dask"]',
    "DASK_DISTRIBUTED__WORKER__PRELOAD": '["otel_gil.dask"]',
}

TOLERANCE = 0.1
"""Of short phases on a busy machine, where what Dask itself does is in the contention, and not in the truth. `make dask`
has whole minutes, and is within .05."""


class Phase(NamedTuple):
    """Seconds for which the GIL is held, and for which it is left then; a hot loop where it never is."""

    hold: float
    gap: float


class Contention(NamedTuple):
    """Blocked seconds per second: at least and at most, as the task knows it; as Dask's counter and cpython.gil.time are."""

    at_least: float
    at_most: float
    dask: float
    ours: float | None

    @property
    def right(self) -> bool:
        """Whether both counters tell the truth."""
        return all(
            value is not None and self.at_least - TOLERANCE < value < self.at_most + TOLERANCE
            for value in (self.dask, self.ours)
        )


def torture(phases: Mapping[str, Phase], seconds: float, interval: int, **environment: str) -> dict[str, Contention]:
    """Play each phase in a worker process of its own, scraped by Prometheus, and see what it has got."""
    with applications(instrument=False) as start:
        application = start(*python("dask_torture", json.dumps(phases), str(seconds)), **environment)

        def line(number: int, timeout: float) -> dict[str, list[float]]:
            lines = wait_for(
                lambda: (read := application.stdout.splitlines())[number:] and read, "the cluster", timeout
            )
            found: dict[str, list[float]] = json.loads(lines[number])
            return found

        ports: dict[str, int] = line(0, 60)  # type: ignore[assignment]
        with serving({name: Target(port, interval) for name, port in ports.items()}) as prometheus:

            def scraped_since(moment: float) -> bool:
                times = prometheus.query("timestamp(dask_worker_threads)")
                return times.keys() == phases.keys() and min(times.values()) > moment

            wait_for(lambda: scraped_since(0), "a scrape of each worker", 60)
            time.sleep(1)  # so that no scrape before the phase is answered in it
            (application.folder / "go").touch()
            truth = line(1, 60 + 10 * seconds)
            ended = max(end for _, end, *_ in truth.values())
            wait_for(lambda: scraped_since(ended), "another scrape of each worker", 60)
            return {name: contention(prometheus, name, *truth[name]) for name in phases}


def contention(
    prometheus: Prometheus, job: str, start: float, end: float, at_least: float, at_most: float
) -> Contention:
    """What Prometheus has got of the holds of the GIL between two moments, with quiet before and after."""

    # From the last scrape before to the first after, as these are answered at once, so that their times are right.
    def grown(series: str) -> tuple[float, float]:
        samples = prometheus.samples(series)
        before, at_first = [sample for sample in samples if sample[0] < start - 0.5][-1]
        after, at_last = next(sample for sample in samples if sample[0] > end)
        return after - before, at_last - at_first

    elapsed, dask = grown(f'{{__name__=~"dask_(worker|scheduler)_gil_contention_seconds_total",job="{job}"}}')
    blocked = f'cpython_gil_time_seconds_total{{job="{job}",cpython_gil_state="blocked"}}'
    measured = prometheus.query(f"count_over_time({blocked}[10m])")
    ours = grown(blocked)[1] / elapsed if measured else None
    return Contention(at_least / elapsed, at_most / elapsed, dask / elapsed, ours)
