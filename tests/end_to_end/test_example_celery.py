"""examples/celery_prefork: each process of the pool has a series, and it tells what its tasks did."""

from __future__ import annotations

import re
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from .examples import assert_ends, run_beside, running, scrape_first
from .processes import free_port, wait_for

if TYPE_CHECKING:
    from .otlp import Receiver
    from .processes import Application

EXAMPLE = "celery_prefork"
TASKS = 12
NUMBERS = (0, 1)
INSTANCES = [f"{socket.gethostname()}:{number}" for number in NUMBERS]


def work(celery: Application) -> list[float]:
    """Have all tasks done, and give the seconds that each process of the pool spent in those that compute."""
    run_beside(celery, EXAMPLE, "python tasks.py")
    done = re.compile(r"ForkPoolWorker-(\d)\] Task tasks\.(\w+)\[.*\] succeeded in ([\d.]+)s")
    wait_for(lambda: len(done.findall(celery.stderr)) == TASKS, "all tasks to be done")
    computed = [0.0, 0.0]
    for process, task, seconds in done.findall(celery.stderr):
        if task == "compute":
            computed[int(process) - 1] += float(seconds)
    return computed


def test_each_process_has_a_series(receiver: Receiver) -> None:
    """Both ways to export at the same time, as Celery needs seconds to end."""
    port = free_port()
    with (
        running(EXAMPLE, "=prometheus", OTEL_EXPORTER_PROMETHEUS_PORT=str(port)) as scraped,
        running(EXAMPLE, "=otlp", **receiver.environment) as exporting,
    ):
        before = [scrape_first(port + number) for number in NUMBERS]
        computed = work(scraped)
        after = [scrape_first(port + number) for number in NUMBERS]
        assert len({process.pid for process in after} | {scraped.pid}) == 3
        assert [process.instance for process in after] == INSTANCES
        blocked = [now.blocked - then.blocked for then, now in zip(before, after, strict=True)]
        assert blocked == pytest.approx(computed, rel=0.3, abs=0.4)

        computed = work(exporting)
        scraped.signal(signal.SIGTERM)
        exporting.signal(signal.SIGINT)
        assert_ends(scraped)
        assert_ends(exporting, 1)  # Celery's own exit code
        exported = {instance: receiver.times()[pid] for pid, instance in receiver.instances().items()}
        assert sorted(exported) == INSTANCES
        for instance, expected in zip(INSTANCES, computed, strict=True):
            (times,) = exported[instance]  # at the end, and no earlier
            assert times.blocked == pytest.approx(expected, rel=0.3, abs=0.5)
