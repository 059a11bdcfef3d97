"""examples/fastapi_uvicorn: what each kind of handler does to the event loop, and what to the GIL."""

from __future__ import annotations

import signal
import statistics
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING, NamedTuple

import pytest

from .examples import answers, ask, assert_ends, load, running, scrape_first
from .processes import free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 2.5  # of each load; it takes up to 1.5 s until waits are recorded


class Seen(NamedTuple):
    """What there was under load by one client: contention, seconds that three in four waits took at most, and `/` did."""

    contention: float
    wait: float
    health: float


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, Seen]]:
    """Runs each handler in turn."""
    port, metrics = free_port(), free_port()
    with running(
        "fastapi_uvicorn", "=prometheus", UVICORN_PORT=str(port), OTEL_EXPORTER_PROMETHEUS_PORT=str(metrics)
    ) as uvicorn:
        wait_for(lambda: answers(port), "uvicorn to serve")
        scrape_first(metrics)

        def under_load(path: str) -> Seen:
            before = scrape_first(metrics)
            seconds = []
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            with load(port, path):
                end = time.monotonic() + SECONDS
                while (asked := time.monotonic()) < end:
                    ask(connection, "/")
                    seconds.append(time.monotonic() - asked)
                    time.sleep(0.1)
                after = scrape_first(metrics)
            connection.close()
            return Seen(after.share_since(before), after.wait_since(before, 0.75), statistics.median(seconds))

        yield {path: under_load(path) for path in ("/python", "/json", "/sleep", "/hash")}
        # When it has shut down, it ends by the signal itself.
        uvicorn.signal(signal.SIGTERM)
        assert_ends(uvicorn, -signal.SIGTERM)


def test_python_in_the_loop(seen: dict[str, Seen]) -> None:
    assert seen["/python"].contention > 0.7
    assert seen["/python"].health > seen["/hash"].health


def test_c_code_that_holds_the_gil_in_a_thread(seen: dict[str, Seen]) -> None:
    assert seen["/json"].contention > 0.6
    assert seen["/json"].wait > seen["/python"].wait
    assert seen["/json"].health > seen["/hash"].health


def test_sleep_in_the_loop_is_not_the_gil(seen: dict[str, Seen]) -> None:
    assert seen["/sleep"].contention < 0.5
    assert seen["/sleep"].health > 0.1


def test_c_code_without_the_gil_in_a_thread(seen: dict[str, Seen]) -> None:
    assert seen["/hash"].contention < 0.5
    assert seen["/hash"].health < 0.1
