"""The examples of services, started by the commands in their READMEs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from .processes import SCRIPTS, Application, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[2] / "examples"

_PATH = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"

# Which process it is, as the attribute process.pid: the examples themselves do not tell.
_DETECTORS = "process,otel"


def command(example: str, containing: str) -> tuple[str, ...]:
    """The one command in an example's README in which there is a text, to be executed as it is."""
    readme = (EXAMPLES / example / "README.md").read_text().replace("\\\n", "")
    (found,) = (line for line in re.findall(r"^\$ (.+)", readme, re.MULTILINE) if containing in line)
    return ("env", *shlex.split(found))


@contextmanager
def running(example: str, containing: str, **environment: str) -> Iterator[Application]:
    """Runs a copy of an example by one of its commands."""
    with TemporaryDirectory(prefix="otel-gil-example-") as folder:
        shutil.copytree(EXAMPLES / example, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        environment = {
            "PATH": _PATH,
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": _DETECTORS,
            "XDG_RUNTIME_DIR": folder,  # where gunicorn puts its control socket
            **environment,
        }
        application = Application(Path(folder), *command(example, containing), **environment)
        try:
            yield application
        finally:
            application.kill()
            print(application.stdout, application.stderr)  # pytest shows it where a test fails


def run_beside(application: Application, example: str, containing: str) -> None:
    """Run another command of its README to its end, where the application runs."""
    subprocess.run(
        command(example, containing),
        cwd=application.folder,
        env={**os.environ, "PATH": _PATH, "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        timeout=60,
    )


def assert_ends(application: Application, code: int = 0) -> None:
    """It ends promptly, having been sent a signal, with all of its processes, and without complaints."""
    told = time.monotonic()
    assert application.wait() == code
    assert time.monotonic() - told < 20
    output = application.stdout + application.stderr
    assert not re.search("Traceback|ERROR|CRITICAL|Exception|Failed", output), output


class Scraped(NamedTuple):
    """What a Prometheus exporter's port gave: `waits` counts those up to so many seconds."""

    pid: int
    instance: str
    contention: float
    blocked: float
    free: float
    waits: dict[float, float]

    def share_since(self, before: Scraped) -> float:
        """Blocked time of all time since an earlier scrape."""
        blocked = self.blocked - before.blocked
        return blocked / (blocked + self.free - before.free)

    def wait_since(self, before: Scraped, quantile: float) -> float:
        """The upper bound, in seconds, of so large a share of the waits since an earlier scrape."""
        counts = {bound: count - before.waits.get(bound, 0) for bound, count in self.waits.items()}
        return min(bound for bound, count in counts.items() if count >= quantile * max(counts.values()))


def scrape(port: int) -> Scraped | None:
    """What can be read there; None where nobody listens, or as long as there is nothing to read."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except ConnectionError:
        return None
    finally:
        connection.close()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {
        (sample.name, sample.labels.get("cpython_gil_state")): sample.value
        for sample in samples
        if sample.name.startswith("cpython_gil_")
    }
    if ("cpython_gil_contention", None) not in values:
        return None
    target = next(sample.labels for sample in samples if sample.name == "target_info")
    return Scraped(
        int(target["process_pid"]),
        target["service_instance_id"],
        values["cpython_gil_contention", None],
        values["cpython_gil_time_seconds_total", "blocked"],
        values["cpython_gil_time_seconds_total", "free"],
        {
            float(sample.labels["le"]): sample.value
            for sample in samples
            if sample.name == "cpython_gil_wait_duration_seconds_bucket"
        },
    )


def scrape_first(port: int) -> Scraped:
    """The first that can be read there."""
    found = wait_for(lambda: scrape(port), f"metrics at port {port}")
    assert found
    return found


def ask(connection: HTTPConnection, path: str) -> bytes:
    """The body of a successful answer."""
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body
    return body


@contextmanager
def load(port: int, path: str) -> Iterator[None]:
    """Lets a client ask for a path again and again."""
    ended = threading.Event()
    failures: list[Exception] = []

    def client() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            while not ended.is_set():
                ask(connection, path)
        except Exception as failure:
            failures.append(failure)
        finally:
            connection.close()

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert not failures


def answers(port: int) -> bool:
    """Whether a service answers there."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        ask(connection, "/")
    except ConnectionError:
        return False
    finally:
        connection.close()
    return True
