"""Each worker gets an OpenTelemetry of its own, started after the fork, and a number that its metrics are known by."""

import os
import socket
from typing import Any

from opentelemetry.instrumentation.auto_instrumentation import initialize

bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
workers = 2
threads = 4


def pre_fork(server: Any, worker: Any) -> None:
    """Give the worker the lowest number that is free: one that replaces another takes its number, port and series."""
    taken = {other.number for other in server.WORKERS.values()}
    worker.number = min(set(range(len(taken) + 1)) - taken)


def post_fork(_: Any, worker: Any) -> None:
    """Do in the worker, before it loads the application, what `opentelemetry-instrument` would do in its parent."""
    instance = f"service.instance.id={socket.gethostname()}:{worker.number}"
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES")
    os.environ["OTEL_RESOURCE_ATTRIBUTES"] = f"{given},{instance}" if given else instance
    first_port = int(os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "9464"))
    os.environ["OTEL_EXPORTER_PROMETHEUS_PORT"] = str(first_port + worker.number)
    initialize()
