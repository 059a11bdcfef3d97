"""Celery's prefork pool, each process of which exports its own metrics. Run as a program, it gives the pool work."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from billiard import current_process
from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from opentelemetry.instrumentation.auto_instrumentation import initialize
from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk.metrics import MeterProvider

# Messages are files here, so that there is no server to start. In production this is Redis or RabbitMQ.
QUEUE = Path("messages")
QUEUE.mkdir(exist_ok=True)
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = dict.fromkeys(["data_folder_in", "data_folder_out", "control_folder"], str(QUEUE))


@worker_process_init.connect
def start_telemetry(**_: Any) -> None:
    """Do in a process of the pool what `opentelemetry-instrument` would do in its parent. Celery waits 4 s for it."""
    number = current_process().index  # one that replaces another has the same
    instance = f"service.instance.id={socket.gethostname()}:{number}"
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES")
    os.environ["OTEL_RESOURCE_ATTRIBUTES"] = f"{given},{instance}" if given else instance
    first_port = int(os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "9464"))
    os.environ["OTEL_EXPORTER_PROMETHEUS_PORT"] = str(first_port + number)
    initialize()


@worker_process_shutdown.connect
def stop_telemetry(**_: Any) -> None:
    """Export once more: these processes end without what is registered with atexit."""
    provider = get_meter_provider()
    if isinstance(provider, MeterProvider):  # not if OTEL_SDK_DISABLED is true
        provider.shutdown()


@app.task
def compute() -> None:
    """Keep the GIL."""
    sum(i * i % 97 for i in range(2_000_000))


@app.task
def wait() -> None:
    """Wait for something else."""
    time.sleep(0.3)


if __name__ == "__main__":
    for _ in range(6):
        compute.delay()
        wait.delay()
