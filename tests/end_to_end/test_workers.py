"""Servers with workers, of which a scrape shows the parent alone: somebody must be told."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from .processes import APPS, SCRIPTS, free_port, wait_for

if TYPE_CHECKING:
    from .processes import Start

SERVERS = {
    "gunicorn": ("gunicorn", "--workers=2", "--bind=127.0.0.1:{port}", f"{APPS}.wsgi:application"),
    "uvicorn": (
        "uvicorn",
        "--workers=2",
        "--host=127.0.0.1",
        "--port={port}",
        "--interface=wsgi",
        f"{APPS}.wsgi:application",
    ),
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_scrape_that_shows_the_parent_alone_warns_once(server: str, start: Start) -> None:
    port, metrics = free_port(), free_port()
    name, *arguments = (argument.format(port=port) for argument in SERVERS[server])
    application = start(
        SCRIPTS / name,
        *arguments,
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(metrics),
        XDG_RUNTIME_DIR=".",  # where gunicorn puts its control socket
    )

    def told() -> list[str]:
        try:
            with urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=5) as response:
                response.read()
        except OSError:
            return []
        return [
            line for line in application.stderr.splitlines() if "Nobody can scrape those of its child processes" in line
        ]

    wait_for(told, "the warning")
    time.sleep(6)  # it looks every five seconds
    assert len(told()) == 1
    assert f"this process (pid {application.pid}) serves are of this process only" in told()[0]
    application.signal(signal.SIGTERM)
    application.wait()
