"""A Dask cluster under `opentelemetry-instrument`: nothing to configure for Dask, and nothing on its own endpoints."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from .processes import python, wait_for

if TYPE_CHECKING:
    from .otlp import Receiver, Times
    from .processes import Start


def test_auto_instrumentation(start: Start, receiver: Receiver) -> None:
    phases = json.dumps({"holds": (1, 0.3)})
    application = start(*python("dask_torture", phases, "3"), OTEL_METRIC_EXPORT_INTERVAL="500", **receiver.environment)

    def servers() -> dict[str, int]:
        """The processes in which there is one of a kind."""
        return {
            attributes["dask.server.type"]: pid
            for pid, _, metric in receiver.metrics()
            if metric.name == "dask.server.info"
            for point in metric.gauge.data_points
            for attributes in [{a.key: a.value.string_value for a in point.attributes}]
        }

    def dask_blocked() -> float:
        """Dask's own counter, on the worker's endpoint, which has nothing of OpenTelemetry's."""
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        assert not any(line.startswith("cpython_gil") for line in lines)
        (value,) = (float(line.split()[1]) for line in lines if line.startswith("dask_worker_gil_contention_seconds_t"))
        return value

    wait_for(lambda: application.stdout, "the cluster", 60)
    port = json.loads(application.stdout)["holds"]
    wait_for(lambda: servers().keys() == {"scheduler", "nanny", "worker"}, "their exports")
    pids = servers()
    assert pids["scheduler"] == pids["nanny"] == application.pid != pids["worker"]

    before = dask_blocked()
    (application.folder / "go").touch()
    wait_for(lambda: len(application.stdout.splitlines()) == 2, "the holds", 60)
    start_of_holds, end_of_holds, held, _ = json.loads(application.stdout.splitlines()[1])["holds"]
    assert dask_blocked() - before == pytest.approx(held, abs=0.5)

    def exported(before: float, after: float) -> list[Times]:
        return [times for times in receiver.times()[pids["worker"]] if after * 1e9 < times.unix_nano < before * 1e9]

    wait_for(lambda: exported(math.inf, end_of_holds), "an export after the holds", 60)
    first, last = exported(start_of_holds, 0)[-1], exported(math.inf, end_of_holds)[0]
    assert last.blocked - first.blocked == pytest.approx(held, abs=0.5)
    assert application.wait() == 0
