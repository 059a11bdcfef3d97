"""examples/culprit: from a service that does not answer to the line of code that is why."""

from __future__ import annotations

import re
import signal
import threading
from http.client import HTTPConnection

import pytest

from otel_gil._samplers import observer

from .examples import EXAMPLES, answers, ask, assert_ends, running, scrape_first
from .processes import free_port, wait_for

unavailable = observer.unavailable()
pytestmark = pytest.mark.skipif(unavailable is not None, reason=f"the example needs the observer: {unavailable}")

SOURCE = (EXAMPLES / "culprit" / "signup.py").read_text().splitlines()
LINE = 1 + next(number for number, line in enumerate(SOURCE) if "fullmatch" in line)
NAME = "kraftfahrzeugversicherung@example.com"


def get(port: int, path: str) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        return ask(connection, path).decode()
    finally:
        connection.close()


def names(exposition: str) -> set[str]:
    return set(re.findall("^cpython_gil_\\w+", exposition, re.MULTILINE))


def test_the_line_is_named() -> None:
    port, exporter, endpoint = free_port(), free_port(), free_port()
    with running(
        "culprit",
        "=observer ",
        PORT=str(port),
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_TRACES_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(exporter),
        OTEL_PYTHON_GIL_OBSERVER_PORT=str(endpoint),
        OTEL_PYTHON_GIL_STALL_STDERR="true",
        OTEL_PYTHON_GIL_STALL_THRESHOLD="300",  # on a fast machine it takes less than here
    ) as service:
        wait_for(lambda: answers(port), "it to serve")
        scrape_first(exporter)
        culprit = threading.Thread(target=get, args=(port, f"/?name={NAME}"))
        culprit.start()
        try:
            # Nothing else in the process runs, but the observer answers.
            wait_for(lambda: "the GIL has been held for" in get(endpoint, "/healthz"), "the observer to see it")
            during = get(endpoint, "/metrics")
        finally:
            culprit.join()
        assert re.search(r"^cpython_gil_stalls_total [1-9]", during, re.MULTILINE)
        held = "cpython_gil_held_time_seconds_total{"
        wait_for(lambda: re.search(held + '.*"signup.sign_up".* [1-9.]', get(endpoint, "/metrics")), "who it was")
        # The innermost call: what comes after it, if anything, is another stall.
        call = f'  File "{service.folder}/signup.py", line {LINE}, in sign_up\n'
        assert re.search(re.escape(call) + "(?!  )", service.stderr)
        # The endpoint's names are the exporter's. Only the one that tells of a hold in progress is its own.
        assert names(get(endpoint, "/metrics")) - names(get(exporter, "/metrics")) <= {"cpython_gil_stall_seconds"}
        service.signal(signal.SIGTERM)
        assert_ends(service, -signal.SIGTERM)
