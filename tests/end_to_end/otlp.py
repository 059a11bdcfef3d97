"""A receiver of metrics in OTLP over HTTP."""

from __future__ import annotations

import gzip
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric


class Received(NamedTuple):
    """A metric as one process exported it once."""

    pid: int
    scope: InstrumentationScope
    metric: Metric


class Times(NamedTuple):
    """A point of `cpython.gil.time`: both states, as one process exported them once."""

    unix_nano: int
    blocked: float
    free: float

    def share_since(self, before: Times) -> float:
        """Blocked time of all time since an earlier point."""
        blocked = self.blocked - before.blocked
        return blocked / (blocked + self.free - before.free)


class Receiver:
    """What was received, in the order in which it was, and where to send more."""

    def __init__(self, port: int) -> None:
        self._requests: list[ExportMetricsServiceRequest] = []
        self.environment = {
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            # Who sent it: the attribute process.pid.
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process,otel",
        }

    def add(self, request: ExportMetricsServiceRequest) -> None:
        """Receive."""
        self._requests.append(request)

    def metrics(self) -> Iterator[Received]:
        """All metrics of our scope."""
        for request in list(self._requests):
            for of_resource in request.resource_metrics:
                pid = next(a.value.int_value for a in of_resource.resource.attributes if a.key == "process.pid")
                for of_scope in of_resource.scope_metrics:
                    for metric in of_scope.metrics:
                        if of_scope.scope.name == "otel_gil":
                            yield Received(pid, of_scope.scope, metric)

    def instances(self) -> dict[int, str]:
        """The `service.instance.id` of each process."""
        found = {}
        for request in list(self._requests):
            for of_resource in request.resource_metrics:
                attributes = {attribute.key: attribute.value for attribute in of_resource.resource.attributes}
                found[attributes["process.pid"].int_value] = attributes["service.instance.id"].string_value
        return found

    def times(self) -> dict[int, list[Times]]:
        """The points of `cpython.gil.time`, by process."""
        found: dict[int, list[Times]] = {}
        for pid, _, metric in self.metrics():
            if metric.name == "cpython.gil.time":
                points = metric.sum.data_points
                value = {point.attributes[0].value.string_value: point.as_double for point in points}
                moment = points[0].time_unix_nano
                found.setdefault(pid, []).append(Times(moment, value["blocked"], value["free"]))
        return found


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Runs a receiver."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/metrics"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            receiver.add(ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportMetricsServiceResponse().SerializeToString())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_port)
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
