"""gunicorn, which loads the application and forks its workers from a process that is measured, too."""

from __future__ import annotations

import signal
import time
from collections import Counter
from http.client import HTTPConnection
from typing import NamedTuple

import pytest
from marks import with_observer

from .otlp import Times, receiving
from .processes import APPS, SCRIPTS, applications, free_port, wait_for

LOADING = 0.5  # seconds for which the GIL is held before the workers are forked
HOLDS = 2  # of a second each, in one worker or in both


class Served(NamedTuple):
    """What there is when gunicorn has ended."""

    exit_code: int
    seconds_to_end: float
    stdout: str
    stderr: str
    workers: dict[int, list[Times]]
    holds: Counter[int]


def ask(port: int, path: str) -> int:
    """The process id of the worker that answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return int(connection.getresponse().read())
    finally:
        connection.close()


@pytest.fixture(scope="module", params=["poisson", pytest.param("observer", marks=with_observer)])
def served(request: pytest.FixtureRequest) -> Served:
    """Runs two workers, and holds the GIL in them."""
    with receiving() as receiver, applications() as start:
        port = free_port()
        gunicorn = start(
            SCRIPTS / "gunicorn",
            "--preload",
            "--workers=2",
            f"--bind=127.0.0.1:{port}",
            f"{APPS}.wsgi:application",
            # Longer than it takes to start: a process that is forked in the middle of an export exports no more.
            OTEL_METRIC_EXPORT_INTERVAL="2000",
            OTEL_PYTHON_GIL_SAMPLER=request.param,
            OTEL_PYTHON_GIL_STALL_THRESHOLD="60000",  # the observer would warn of those of a second
            XDG_RUNTIME_DIR=".",  # where gunicorn puts its control socket
            **receiver.environment,
        )
        wait_for(lambda: len(receiver.times().keys() - {gunicorn.pid}) == 2, "both workers to export")
        holds = Counter(ask(port, "/hold") for _ in range(HOLDS))
        told = time.monotonic()
        gunicorn.signal(signal.SIGTERM)
        exit_code = gunicorn.wait()
        seconds = time.monotonic() - told
        workers = {pid: times for pid, times in receiver.times().items() if pid != gunicorn.pid}
        return Served(exit_code, seconds, gunicorn.stdout, gunicorn.stderr, workers, holds)


def test_workers_are_told_apart(served: Served) -> None:
    assert len(served.workers) == 2
    assert set(served.holds) <= set(served.workers)
    assert sum(served.holds.values()) == HOLDS


def test_counters_go_on(served: Served) -> None:
    for times in served.workers.values():
        assert len(times) >= 2
        assert times[0].blocked > 0.8 * LOADING
        for before, after in zip(times, times[1:]):
            assert after.blocked >= before.blocked
            assert after.free >= before.free
        elapsed = (times[-1].unix_nano - times[0].unix_nano) / 1e9
        observed = sum(times[-1][1:]) - sum(times[0][1:])
        assert observed == pytest.approx(elapsed, rel=0.1, abs=0.1)


def test_who_holds_the_gil_shows_it(served: Served) -> None:
    for pid, times in served.workers.items():
        assert times[-1].blocked - times[0].blocked == pytest.approx(served.holds[pid], abs=0.5)


def test_ends_promptly(served: Served) -> None:
    assert served.exit_code == 0
    assert served.seconds_to_end < 30  # the graceful time-out, after which gunicorn kills


def test_says_nothing_but_its_own(served: Served) -> None:
    assert served.stdout == ""
    assert [line for line in served.stderr.splitlines() if "[INFO]" not in line] == []
