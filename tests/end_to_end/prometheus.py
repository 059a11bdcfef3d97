"""A real Prometheus server."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from .processes import absent, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Target(NamedTuple):
    """What to scrape, and how many seconds there are between two scrapes, which is their time-out, too."""

    port: int
    interval: int

    @property
    def exporter(self) -> dict[str, str]:
        """The environment variables of an application that is to be scraped there."""
        return {
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.port),
        }


class Series(NamedTuple):
    """Labels, and values one after another."""

    labels: dict[str, str]
    values: list[float]


class Prometheus:
    """A client of the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def ready(self) -> bool:
        """Whether it can be asked."""
        try:
            return self._get("/-/ready")[0] == 200
        except ConnectionError:
            return False

    def query(self, expression: str, moment: float | None = None) -> dict[str, float]:
        """The values of a PromQL expression at a moment, now by default, by job."""
        return {labels["job"]: value for labels, (value,) in self.series(expression, moment)}

    def series(self, expression: str, moment: float | None = None) -> list[Series]:
        """What a PromQL expression gives at a moment, now by default."""
        result = self._query(expression, moment or time.time())
        return [Series(series["metric"], [float(series["value"][1])]) for series in result]

    def series_of_range(self, expression: str, seconds: int) -> list[Series]:
        """What a PromQL expression gives at each of the last seconds."""
        end = time.time()
        result = self.api("query_range", query=expression, start=end - seconds, end=end, step=1)["result"]
        return [Series(series["metric"], [float(value) for _, value in series["values"]]) for series in result]

    def samples(self, selector: str) -> list[tuple[float, float]]:
        """The moments and values of a series in the last minutes."""
        (series,) = self._query(f"{selector}[10m]", time.time())
        return [(moment, float(value)) for moment, value in series["values"]]

    def api(self, path: str, **parameters: object) -> Any:
        """What the HTTP API answers."""
        status, body = self._get(f"/api/v1/{path}?{urlencode(parameters)}")
        assert status == 200, body
        return json.loads(body)["data"]

    def _query(self, expression: str, moment: float) -> Any:
        return self.api("query", query=expression, time=moment)["result"]

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; where there is none, what needs it is skipped, or fails if it must not."""
    path = shutil.which(name)
    if not path:
        absent(f"there is no {name}; on Debian and Ubuntu: apt-get install prometheus")
    return path


@contextmanager
def serving(targets: Mapping[str, Target], *rules: Path) -> Iterator[Prometheus]:
    """Runs a server that scrapes targets, their names being the jobs, and evaluates rules every second."""
    server_program = program("prometheus")
    with TemporaryDirectory(prefix="otel-gil-prometheus-") as folder:
        configuration = Path(folder, "prometheus.yml")
        configuration.write_text(
            json.dumps(
                {
                    "global": {"evaluation_interval": "1s"},
                    "rule_files": [str(path) for path in rules],
                    "scrape_configs": [_job(*target) for target in targets.items()],
                }
            )
        )
        port = free_port()
        command = [
            server_program,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with Path(folder, "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
            prometheus = Prometheus(port)
            try:
                wait_for(lambda: server.poll() is not None or prometheus.ready, "Prometheus to start")
                assert server.poll() is None, Path(folder, "log").read_text()
                yield prometheus
            finally:
                server.kill()


def _job(name: str, target: Target) -> dict[str, object]:
    return {
        "job_name": name,
        "scrape_interval": f"{target.interval}s",
        "scrape_timeout": f"{target.interval}s",
        "static_configs": [{"targets": [f"127.0.0.1:{target.port}"]}],
    }
