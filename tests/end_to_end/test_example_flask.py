"""examples/flask_gunicorn: one worker is kept busy with reports, the other one is not."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

from .examples import ask, assert_ends, running, scrape, scrape_first
from .processes import free_port, wait_for

if TYPE_CHECKING:
    from .otlp import Receiver

EXAMPLE = "flask_gunicorn"
LOAD = 2.5  # seconds
INSTANCES = {f"{socket.gethostname()}:0", f"{socket.gethostname()}:1"}


def make_reports(port: int) -> int:
    """Have reports made, by one worker as there is one connection, and give its process id."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    workers = set()
    end = time.monotonic() + LOAD
    while time.monotonic() < end:
        workers.add(json.loads(ask(connection, "/report"))["worker"])
    connection.close()
    (worker,) = workers
    return int(worker)


def test_port_for_each_worker() -> None:
    port = free_port()
    ports = [port + 1, port + 2]
    with running(EXAMPLE, "=prometheus", PORT=str(port), OTEL_EXPORTER_PROMETHEUS_PORT=str(ports[0])) as gunicorn:
        before = [scrape_first(port) for port in ports]
        busy = make_reports(port)
        after = [scrape_first(port) for port in ports]

        assert [worker.pid for worker in before] == [worker.pid for worker in after]
        assert {worker.instance for worker in after} == INSTANCES
        shares = {then.pid: now.share_since(then) for then, now in zip(before, after, strict=True)}
        assert shares.pop(busy) > 0.5
        (idle,) = shares.values()
        assert idle < 0.5

        (number,) = (number for number in (0, 1) if before[number].pid == busy)
        os.kill(busy, signal.SIGTERM)

        # Scraped until then, it would complain of the scrape that its end cuts short.
        wait_for(lambda: not Path(f"/proc/{busy}").exists(), "the worker to end")

        def replaced() -> bool:
            now = scrape(ports[number])
            return now is not None and now.pid != busy and now.instance == before[number].instance

        wait_for(replaced, "another worker in its place")

        def answers() -> bool:
            # Before that it would miss gunicorn's signal, which then waits for half a minute.
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            worker: int = json.loads(ask(connection, "/page"))["worker"]
            connection.close()
            return worker not in [one.pid for one in before]

        wait_for(answers, "an answer of it")
        gunicorn.signal(signal.SIGTERM)
        assert_ends(gunicorn)


def test_otlp(receiver: Receiver) -> None:
    port = free_port()
    with running(
        EXAMPLE, "=otlp", PORT=str(port), **receiver.environment, OTEL_METRIC_EXPORT_INTERVAL="1000"
    ) as gunicorn:
        wait_for(lambda: len(receiver.times()) == 2, "both workers to export")
        before = {pid: times[-1] for pid, times in receiver.times().items()}
        busy = make_reports(port)
        # A worker that gets SIGINT while it hands a request to a thread locks itself up: gunicorn's handler.
        time.sleep(1)
        gunicorn.signal(signal.SIGINT)
        assert_ends(gunicorn)

        assert gunicorn.pid not in receiver.times()
        assert set(receiver.instances().values()) == INSTANCES
        shares = {pid: times[-1].share_since(before[pid]) for pid, times in receiver.times().items()}
        assert shares.pop(busy) > 0.5
        (idle,) = shares.values()
        assert idle < 0.5
