"""Starts a child with the method of multiprocessing in argv[1], and writes as JSON what both read of themselves.

What they read is the Prometheus exporter's registry, as it would be scraped.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from prometheus_client import REGISTRY

from .workload import Workload

TIMEOUT = 30.0


def reading() -> tuple[float, float] | None:
    """Blocked and free seconds of this process; None where nothing is known."""
    value = {
        sample.labels["cpython_gil_state"]: sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "cpython_gil_time_seconds_total"
    }
    return (value["blocked"], value["free"]) if value else None


def readings() -> list[tuple[float, float] | None]:
    """The first that is of this process, and one after another half of a second in which the GIL was held."""
    end = time.monotonic() + TIMEOUT
    inherited = reading()
    while (first := reading()) == inherited and time.monotonic() < end:
        time.sleep(0.01)
    Workload().hold(0.5)
    time.sleep(0.1)
    return [first, reading()]


def report(connection: Connection) -> None:
    """In the child."""
    connection.send(readings())


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    parent = readings()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=report, args=(sender,))
    process.start()
    assert receiver.poll(TIMEOUT)
    child = receiver.recv()
    told = time.monotonic()
    process.join(TIMEOUT)
    seconds_to_end = time.monotonic() - told
    result = {"parent": parent, "child": child, "exit_code": process.exitcode, "seconds_to_end": seconds_to_end}
    Path("result").write_text(json.dumps(result))
