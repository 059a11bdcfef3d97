"""A Dask cluster of the command-line programs, as users start it, with the newest distributed and the oldest."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from otel_gil.dask._system_monitor import OLDEST

from .processes import SCRIPTS, Application, absent, applications, free_port, python, wait_for
from .prometheus import Prometheus, Target, serving
from .torture import Contention, contention

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = str(Path(__file__).parents[1])
OLDEST_IS_IN = Path(sys.prefix, f"dask-{OLDEST}")
PLAYED = ("worker", "scheduler", "worker")


class Played(NamedTuple):
    """What there is when holds of the GIL have been played."""

    which: str
    prometheus: Prometheus
    version: str
    truth: list[tuple[float, float, float, float]]
    ended: float
    exit_codes: list[int]
    output: str

    def contention(self, part: int) -> Contention:
        """What Prometheus has got of a part."""
        return contention(self.prometheus, f"{self.which} {PLAYED[part]}", *self.truth[part])


@pytest.fixture(scope="module")
def all_played() -> Iterator[dict[str, Played]]:
    """Runs a scheduler, a worker and its nanny of each distributed, and holds the GIL in them."""
    paths = {"newest": TESTS}
    if OLDEST_IS_IN.exists():
        paths["oldest"] = f"{OLDEST_IS_IN}{os.pathsep}{TESTS}"
    targets = {f"{which} {kind}": Target(free_port(), 1) for which in paths for kind in ("scheduler", "worker")}
    with serving(targets) as prometheus, applications(instrument=False) as start:

        def dask(which: str, kind: str, *arguments: str) -> Application:
            dashboard = f"--dashboard-address=127.0.0.1:{targets[f'{which} {kind}'].port}"
            return start(
                SCRIPTS / "dask",
                *(kind, *arguments, "--host=127.0.0.1", dashboard, "--no-dashboard", "--preload=otel_gil.dask"),
                PYTHONPATH=paths[which],
            )

        addresses = {which: f"tcp://127.0.0.1:{free_port()}" for which in paths}
        servers = {
            which: (
                dask(which, "worker", address, "--name=alpha", "--nthreads=1", "--preload-nanny=otel_gil.dask"),
                dask(which, "scheduler", f"--port={address.rpartition(':')[2]}"),
            )
            for which, address in addresses.items()
        }
        wait_for(lambda: prometheus.query("up == 1").keys() == targets.keys(), "a scrape of each server", 60)
        clients = {
            which: start(*python("dask_client", address), PYTHONPATH=paths[which])
            for which, address in addresses.items()
        }
        assert all(client.wait(120) == 0 for client in clients.values())
        now = time.time()
        exit_codes: dict[str, list[int]] = {which: [] for which in paths}
        for applications_of_a_kind in zip(*servers.values(), strict=True):
            for application in applications_of_a_kind:
                application.signal(signal.SIGTERM)
            for which, application in zip(paths, applications_of_a_kind, strict=True):
                exit_codes[which].append(application.wait())
        yield {
            which: Played(
                which,
                prometheus,
                **json.loads(clients[which].stdout),
                ended=now,
                exit_codes=exit_codes[which],
                output="".join(application.stderr for application in servers[which]),
            )
            for which in paths
        }


@pytest.fixture(params=["newest", "oldest"])
def played(request: pytest.FixtureRequest, all_played: dict[str, Played]) -> Played:
    """One of them."""
    if request.param not in all_played:
        absent(f"there is no distributed {OLDEST} in {OLDEST_IS_IN}, where `make test` installs it")
    return all_played[request.param]


def test_versions(all_played: dict[str, Played]) -> None:
    """Else the other tests would not be about what they say."""
    assert {which: played.version for which, played in all_played.items()}.items() <= {
        "newest": version("distributed"),
        "oldest": OLDEST,
    }.items()


@pytest.mark.parametrize("part", range(len(PLAYED)))
def test_both_counters_tell_the_truth(played: Played, part: int) -> None:
    """On the worker, on the scheduler, and on the worker that the nanny has started again."""
    seen = played.contention(part)
    print(seen)
    assert seen.at_least > 0.4
    assert seen.right


def test_nobody_counts_what_others_hold(played: Played) -> None:
    start, end, *_ = played.truth[0]
    seen = contention(played.prometheus, f"{played.which} scheduler", start, end, 0, 0)
    assert seen.ours is not None
    assert max(seen.dask, seen.ours) < 0.2  # a scheduler is never quite idle


@pytest.mark.parametrize("kind", ["scheduler", "worker"])
def test_contention_of_each_server_by_name(played: Played, kind: str) -> None:
    """The query in docs/dask.md."""
    found = played.prometheus.series(
        'sum by (job, instance) (rate(cpython_gil_time_seconds_total{cpython_gil_state="blocked"}[5m]))'
        " / sum by (job, instance) (rate(cpython_gil_time_seconds_total[5m]))"
        " * on (job, instance) group_left (dask_server_name, dask_server_address)"
        f' dask_server_info{{dask_server_type="{kind}"}}',
        played.ended,
    )
    (labels,) = (labels for labels, _ in found if labels["job"] == f"{played.which} {kind}")
    assert labels.get("dask_server_name", "") == {"scheduler": "", "worker": "alpha"}[kind]
    assert labels["dask_server_address"].startswith("tcp://127.0.0.1:")


def test_nothing_else_happens(played: Played) -> None:
    assert played.exit_codes == [0, 0]
    # Of a busy machine Dask itself warns.
    said = [line for line in played.output.splitlines() if " - INFO - " not in line]
    assert not [line for line in said if re.search("otel|Traceback|Error|ERROR|FATAL", line)]
