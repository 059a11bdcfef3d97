"""`otel-gil demo`: workloads whose contention is known, and what a scrape of their process says about it.

The workloads run in a child process under `opentelemetry-instrument`, with nothing in it but what every application
gets. What is shown is taken from its /metrics as Prometheus would take it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from otel_gil._cli.instrumented import HOST, fetch, free_port, instrument, samples
from otel_gil._cli.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_COLUMNS = ("workload", "truth", "exported", "wait p50", "wait p99", "gilknocker")

_ENDED = "the process with the workloads ended"

_START_TIMEOUT = 10.0
"""Seconds in which the metrics must appear."""

_BATCH_TIMEOUT = 2.0
"""Seconds in which an idle process records a batch of waits, which it does every 1.5 s or earlier."""

_LEGEND = """\
truth       share of time in which the workload held the GIL, by its own clock
exported    cpython_gil_time_seconds_total: increase of state "blocked" / increase of both states.
wait        quantiles of the increase of cpython_gil_wait_duration_seconds_bucket, interpolated in its buckets.
            Waits are recorded in batches, so a row has up to 1.5 s of idle time in it.
gilknocker  its raw contention_metric with default intervals, reset when the workload began
-           not measured: gilknocker can't be used, or the sampler records no waits"""

_NEXT = """\
Measure your own application:
  opentelemetry-instrument --metrics_exporter prometheus --traces_exporter none --logs_exporter none python app.py
and scrape it:
  http://localhost:9464/metrics
What is measured where, and what is set:
  otel-gil doctor"""

_MISSING = """\
The demo needs the Prometheus exporter and the auto-instrumentation of OpenTelemetry:
  pip install 'otel-gil[prometheus]'"""


class Scrape(NamedTuple):
    """What /metrics says of the GIL.

    Attributes:
        blocked, free: seconds, from `cpython_gil_time_seconds_total`.
        buckets: upper bounds in seconds, with the number of waits up to them; empty while there are none.
    """

    blocked: float
    free: float
    buckets: tuple[tuple[float, float], ...]


def parse(text: str) -> Scrape | None:
    """Read the exposition format; None where the GIL is not measured, or not yet."""
    times: dict[str, float] = {}
    buckets: list[tuple[float, float]] = []
    for sample in samples(text):
        if sample.name == "cpython_gil_time_seconds_total":
            times[sample.labels["cpython_gil_state"]] = sample.value
        elif sample.name == "cpython_gil_wait_duration_seconds_bucket":
            buckets.append((float(sample.labels["le"]), sample.value))
    return Scrape(times["blocked"], times["free"], tuple(sorted(buckets))) if times else None


def contention(before: Scrape, after: Scrape) -> float | None:
    """Share of blocked time between two scrapes, in [0, 1]; None where no time was observed."""
    blocked = after.blocked - before.blocked
    elapsed = blocked + after.free - before.free
    return blocked / elapsed if elapsed > 0 else None


def quantile(q: float, before: Scrape, after: Scrape) -> float | None:
    """Seconds that a share `q` of the waits between two scrapes did not exceed; None where there were none.

    As `histogram_quantile` of Prometheus: evenly distributed within a bucket, and not above the last finite bound.
    """
    counted = dict(before.buckets)
    buckets = [(bound, count - counted.get(bound, 0.0)) for bound, count in after.buckets]
    if not buckets or not buckets[-1][1]:
        return None
    rank = q * buckets[-1][1]
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > below:
            return low if bound == float("inf") else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low


def duration(seconds: float | None) -> str:
    """Seconds as read by people."""
    if seconds is None:
        return "-"
    if seconds < 0.0001:  # noqa: PLR2004 - the first bound of the histogram
        return "<0.1 ms"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def share(value: float | None) -> str:
    """A number in [0, 1] as read by people."""
    return "-" if value is None else f"{value:.2f}"


def row(cells: Sequence[str]) -> str:
    """A line of the table."""
    first, *others = cells
    return f"{first:<28}" + "".join(f"{cell:>11}" for cell in others)


def run(seconds: float, port: int) -> int:
    """Play the workloads, show the table, and return the exit code.

    Args:
        seconds: for how long the workloads are played, all together, at the least.
        port: the one of 127.0.0.1 that the metrics are served on; 0 takes a free one.
    """
    try:
        import opentelemetry.distro
        import opentelemetry.exporter.prometheus  # noqa: F401
    except ImportError:
        return _fail(_MISSING)
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        try:
            _show(seconds, free_port(port), stderr)
        except KeyboardInterrupt:
            sys.stderr.write("\nInterrupted\n")
            return 130
        except OSError as error:
            stderr.seek(0)
            return _fail(f"otel-gil demo: {error}", stderr.read().rstrip())
    return 0


def _show(seconds: float, port: int, stderr: IO[str]) -> None:
    url = f"http://{HOST}:{port}/metrics"
    scale = seconds / sum(workload.seconds for workload in WORKLOADS)
    _say(f"Workloads under opentelemetry-instrument, served on {url}\n\n{row(_COLUMNS)}")
    with _child(port, stderr) as child:
        lines = _lines(child.stdout)
        last = _next_batch(_first(url, lines), url)
        for index, workload in enumerate(WORKLOADS):
            begun = _scrape(url) or last
            request = f"{index} {workload.seconds * scale}"
            answer = _ask(child, lines, request, workload.name)
            ended = _scrape(url) or begun
            last = _next_batch(ended, url) if ended.buckets else ended
            cells = (
                workload.name,
                share(answer["truth"]),
                share(contention(begun, ended)),
                duration(quantile(0.5, begun, last)),
                duration(quantile(0.99, begun, last)),
                share(answer["gilknocker"]),
            )
            _say(row(cells))
    _say(f"\n{_LEGEND}\n\n{_NEXT}")


@contextmanager
def _child(port: int, stderr: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """The process that plays the workloads, which is gone when the context is left."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OTEL_") or name.startswith("OTEL_PYTHON_GIL_")
    }
    environment |= {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_PROMETHEUS_HOST": HOST,
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
    }
    command = instrument([sys.executable, "-m", "otel_gil._cli.workloads"])
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=stderr, text=True) as process:  # noqa: S603
        try:
            yield process
        finally:
            # Where `opentelemetry-instrument` starts another process instead of becoming it, as on Windows, that one
            # ends with its standard input.
            with suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            process.kill()


def _lines(stream: IO[str] | None) -> queue.SimpleQueue[str]:
    """Lines of the stream as they come, and an empty one at its end."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in stream or ():
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    return lines


def _ask(child: subprocess.Popen[str], lines: queue.SimpleQueue[str], request: str, name: str) -> dict[str, Any]:
    """Have a workload played; meanwhile, on a terminal, count the seconds."""
    assert child.stdin  # noqa: S101 - it is a pipe
    child.stdin.write(request + "\n")
    child.stdin.flush()
    begun = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            _progress(f"{name}, {time.monotonic() - begun:.0f} s")
            continue
        _progress("")
        if not line:
            raise ChildProcessError(_ENDED)
        answer: dict[str, Any] = json.loads(line)
        return answer


def _first(url: str, lines: queue.SimpleQueue[str]) -> Scrape:
    """The first scrape that has the GIL's metrics."""
    end = time.monotonic() + _START_TIMEOUT
    while True:
        error = OSError("the metrics of the GIL are absent; `otel-gil doctor` may know why")
        try:
            if scrape := _scrape(url):
                return scrape
        except OSError as unserved:
            error = unserved
        if not lines.empty():
            raise ChildProcessError(_ENDED)
        if time.monotonic() > end:
            raise error
        time.sleep(0.1)


def _next_batch(scrape: Scrape, url: str) -> Scrape:
    """The first scrape that has more waits than this one, or the last in a while."""
    end = time.monotonic() + _BATCH_TIMEOUT
    buckets = scrape.buckets
    while scrape.buckets == buckets and time.monotonic() < end:
        time.sleep(0.2)
        scrape = _scrape(url) or scrape
    return scrape


def _scrape(url: str) -> Scrape | None:
    return parse(fetch(url, timeout=30))


def _progress(text: str) -> None:
    if sys.stdout.isatty():
        sys.stdout.write("\r" + text.ljust(60) + "\r" + text)
        sys.stdout.flush()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _fail(*reasons: str) -> int:
    sys.stderr.write("\n".join(filter(None, reasons)) + "\n")
    return 1
