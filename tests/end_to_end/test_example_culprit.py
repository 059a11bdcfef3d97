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


def test_the_line_is_named() -> None:
    port, exporter = free_port(), free_port()
    with running(
        "culprit",
        "opentelemetry-instrument",
        PORT=str(port),
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_TRACES_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(exporter),
        OTEL_PYTHON_GIL_STALL_THRESHOLD="300",  # on a fast machine it takes less than here
    ) as service:
        wait_for(lambda: answers(port), "it to serve")
        scrape_first(exporter)
        # The innermost call: what comes after it, if anything, is another stall.
        call = f'  File "{service.folder}/signup.py", line {LINE}, in sign_up\n'
        during = r"^otel-gil: the GIL has been held for \d\.\d s by ThreadPoolExecutor .*\n(  File .*\n)*"
        culprit = threading.Thread(target=get, args=(port, f"/?name={NAME}"))
        culprit.start()
        try:
            # Nothing else in the process runs, but the observer says it.
            found = re.compile(during + re.escape(call) + "(?!  )", re.MULTILINE)
            wait_for(lambda: found.search(service.stderr), "the observer to see it")
            assert culprit.is_alive(), "it was told when it was over"
        finally:
            culprit.join()
        line = f"by ThreadPoolExecutor in signup.sign_up (line {LINE} of {service.folder}/signup.py)\n"
        after = re.compile(r"^The GIL was held for \d+\.\d s " + re.escape(line), re.MULTILINE)
        wait_for(lambda: after.search(service.stderr), "the warning")
        exposition = get(exporter, "/metrics")
        assert re.search(r"^cpython_gil_stalls_total{.*} [1-9]", exposition, re.MULTILINE), exposition
        held = r"^cpython_gil_held_time_seconds_total{.*\"signup\.sign_up\".*} ([\d.]+)"
        (seconds,) = re.findall(held, exposition, re.MULTILINE)
        assert float(seconds) > 0.3
        service.signal(signal.SIGTERM)
        assert_ends(service, -signal.SIGTERM)
