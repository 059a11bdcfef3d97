"""uWSGI forks by itself, without Python's hooks where threads are off: its workers are measured all the same."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from marks import with_observer

from otel_gil._cli.instrumented import samples

from .processes import SCRIPTS, absent, applications, free_port, wait_for

UWSGI = SCRIPTS / "uwsgi"

pytestmark = with_observer

APPLICATION = """
import os, time
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest
from otel_gil import GilInstrumentor

GilInstrumentor().instrument(meter_provider=MeterProvider([PrometheusMetricReader()]))

def compute(seconds):
    end = time.time() + seconds
    while time.time() < end:
        pass

def application(environ, start_response):
    start_response("200 OK", [("X-Pid", str(os.getpid()))])
    if environ["PATH_INFO"] == "/compute":
        compute(2.0)
    return [generate_latest()]
"""


@pytest.mark.parametrize("threads", [(), ("--enable-threads", "--threads=2"), ("--enable-threads", "--lazy-apps")])
def test_workers(threads: tuple[str, ...], tmp_path: Path) -> None:
    if sys.version_info[:2] != (3, 13):
        pytest.skip("uWSGI is built for CPython 3.13 only, as each build takes a minute")
    if not UWSGI.exists():
        absent("uWSGI is not installed")
    (tmp_path / "served.py").write_text(APPLICATION)
    port = free_port()

    def ask(path: str) -> tuple[int, dict[tuple[str, str], float]]:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
            found = {
                (name, labels.get("code_function_name") or labels.get("cpython_gil_state", "")): value
                for name, labels, value in samples(response.read().decode())
            }
            return int(response.headers["X-Pid"]), found

    def answers() -> bool:
        try:
            ask("/")
        except OSError:
            return False
        return True

    with applications(instrument=False) as start:
        application = start(
            UWSGI,
            f"--http-socket=127.0.0.1:{port}",
            f"--wsgi-file={tmp_path}/served.py",
            f"--virtualenv={sys.prefix}",
            "--master",
            "--processes=2",
            "--die-on-term",
            *threads,
        )
        wait_for(answers, "an answer")
        begun = time.monotonic()
        pid, after = ask("/compute")
        took = time.monotonic() - begun
        assert pid != application.pid
        assert 0.7 * 2.0 < after["cpython_gil_time_seconds_total", "blocked"] < took + 2.0
        assert after["cpython_gil_held_time_seconds_total", "served.compute"] > 0.7 * 2.0
        application.signal(signal.SIGTERM)
        application.wait()
