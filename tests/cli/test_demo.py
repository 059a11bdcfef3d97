from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from marks import MAIN

from otel_gil import _samplers
from otel_gil._cli import demo, instrumented
from otel_gil._cli.demo import Scrape, contention, duration, parse, quantile, row, share
from otel_gil._cli.workloads import WORKLOADS

INF = float("inf")

SCRAPED = """\
# HELP cpython_gil_wait_duration_seconds How long
# TYPE cpython_gil_wait_duration_seconds histogram
cpython_gil_wait_duration_seconds_bucket{le="0.0001",otel_scope_name="otel_gil"} 10.0
cpython_gil_wait_duration_seconds_bucket{le="0.01",otel_scope_name="otel_gil"} 20.0
cpython_gil_wait_duration_seconds_bucket{le="+Inf",otel_scope_name="otel_gil"} 21.0
cpython_gil_wait_duration_seconds_count{otel_scope_name="otel_gil"} 21.0
cpython_gil_wait_duration_seconds_sum{otel_scope_name="otel_gil"} 1.5
# HELP cpython_gil_time_seconds_total Time
# TYPE cpython_gil_time_seconds_total counter
cpython_gil_time_seconds_total{cpython_gil_state="blocked",otel_scope_name="otel_gil"} 1.25
cpython_gil_time_seconds_total{cpython_gil_state="free",otel_scope_name="otel_gil"} 2.5
# HELP python_info Python platform information
# TYPE python_info gauge
python_info{version="3.13.0"} 1.0
"""


def test_parse() -> None:
    assert parse(SCRAPED) == Scrape(1.25, 2.5, ((0.0001, 10.0), (0.01, 20.0), (INF, 21.0)))
    without_waits = "".join(line for line in SCRAPED.splitlines(True) if "duration" not in line)
    assert parse(without_waits) == Scrape(1.25, 2.5, ())
    assert parse("") is None


def test_contention() -> None:
    before = Scrape(10.0, 20.0, ())
    assert contention(before, Scrape(11.0, 23.0, ())) == 0.25
    assert contention(before, Scrape(11.0, 20.0, ())) == 1.0
    assert contention(before, Scrape(10.0, 21.0, ())) == 0.0
    assert contention(before, before) is None


@pytest.mark.parametrize(
    ("q", "expected"),
    [(0.0, 0.0), (0.2, 0.5), (0.4, 1.0), (0.5, 1.5), (0.6, 2.0), (0.7, 6.0), (0.8, 8.0), (0.9, 8.0), (1.0, 8.0)],
)
def test_quantile(q: float, expected: float) -> None:
    before = Scrape(0.0, 0.0, ((1.0, 1.0), (2.0, 1.0), (4.0, 1.0), (8.0, 1.0), (INF, 1.0)))
    after = Scrape(0.0, 0.0, ((1.0, 9.0), (2.0, 13.0), (4.0, 13.0), (8.0, 17.0), (INF, 21.0)))
    # Of 20 waits 8, 4, 0, 4 and 4 are in each of the buckets.
    assert quantile(q, before, after) == pytest.approx(expected)


def test_quantile_of_nothing() -> None:
    some = Scrape(0.0, 0.0, ((1.0, 1.0), (INF, 1.0)))
    none = Scrape(0.0, 0.0, ())
    assert quantile(0.5, some, some) is None
    assert quantile(0.5, none, none) is None
    assert quantile(0.5, none, some) == 0.5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "<0.1 ms"), (0.0001, "0.1 ms"), (0.0123, "12.3 ms"), (1.0, "1.00 s"), (4.567, "4.57 s")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_share() -> None:
    assert share(None) == "-"
    assert share(0.987) == "0.99"


def test_rows_are_aligned() -> None:
    assert {len(row(cells)) for cells in (demo._COLUMNS, [WORKLOADS[1].name, "0.95", "0.95", "-", "-", "-"])} == {83}
    assert all(len(workload.name) < 28 for workload in WORKLOADS)


def environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    # What is the application's must not disturb, nor must a proxy. A short interval makes short workloads exact.
    return (
        inherited
        | {
            "OTEL_PYTHON_GIL_SAMPLING_INTERVAL": "5",
            "OTEL_SDK_DISABLED": "true",
            "OTEL_METRICS_EXPORTER": "pigeon",
            "http_proxy": "http://127.0.0.1:9",
        }
        | variables
    )


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demo in a session of its own, and the first line that it says."""
    command = [sys.executable, "-c", MAIN, "demo", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout
            yield process, process.stdout.readline()
        finally:
            process.kill()


def served(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: bool, port: int) -> None:
    end = time.monotonic() + 20
    while served(port) is not condition:
        assert time.monotonic() < end
        time.sleep(0.05)


def port_of(text: str) -> int:
    found = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", text)
    assert found
    return int(found[1])


def test_what_is_exported_is_true() -> None:
    with started("--seconds", "12") as (process, first):
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors == ""
    assert "\r" not in output
    for workload in WORKLOADS:
        (cells,) = (line[28:].split() for line in output.splitlines() if line.startswith(workload.name))
        truth, exported = map(float, cells[:2])
        assert abs(truth - exported) <= 0.25, output
        if _samplers.choose()[0] == "poisson":
            assert "-" not in cells[2:4], output
    assert "opentelemetry-instrument --metrics_exporter prometheus" in output
    assert "http://localhost:9464/metrics" in output
    assert not served(port_of(first))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no Ctrl-C to send")
def test_ctrl_c() -> None:
    with started() as (process, first):
        port = port_of(first)
        wait_until(True, port)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        assert errors == "\nInterrupted\n"
        # Where Ctrl-C is ignored in the first place, as in the background of a shell, its children end a moment later.
        end = time.monotonic() + 20
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < end:
                os.killpg(process.pid, 0)
                time.sleep(0.01)
        assert not served(port)


def test_killed() -> None:
    with started() as (process, first):
        port = port_of(first)
        wait_until(True, port)
        process.kill()
        process.wait()
        wait_until(False, port)


def test_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert demo.run(1.0, port) == 1
    assert f"port {port} of 127.0.0.1 can't be used: " in capsys.readouterr().err


def test_failing_child(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(instrumented, "INSTRUMENT", "raise SystemExit('the child is unwell')")
    assert demo.run(1.0, 0) == 1
    errors = capsys.readouterr().err
    assert "otel-gil demo: the process with the workloads ended\nthe child is unwell\n" in errors


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.prometheus", None)
    assert demo.run(1.0, 0) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("  pip install 'otel-gil[prometheus]'\n")
