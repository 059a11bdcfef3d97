from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from otel_gil._cli.instrumented import HOST, Sample, fetch, free_port, samples

TEXT = r"""# HELP cpython_gil_waiting Threads {of="all"} 3
# TYPE cpython_gil_waiting gauge
cpython_gil_waiting 2
spaced { a = "b" } 1
two{a="}",b="\\n\n\"",} 1e+06 1700000000000
infinite{le="+Inf"}  +Inf
word word

negative -0.5
"""


def test_samples() -> None:
    assert list(samples(TEXT)) == [
        Sample("cpython_gil_waiting", {}, 2.0),
        Sample("two", {"a": "}", "b": '\\n\n"'}, 1e6),
        Sample("infinite", {"le": "+Inf"}, float("inf")),
        Sample("negative", {}, -0.5),
    ]


def test_of_what_is_no_exposition() -> None:
    assert list(samples("<html>\nError response 404\nversion 1.2.3\n")) == []


@given(st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=3))
def test_as_prometheus_writes_it(values: dict[str, float]) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("of_everything", "", ["label"], registry=registry)
    for label, value in values.items():
        gauge.labels(label).set(value)
    # What can't be encoded can't be served.
    text = generate_latest(registry).decode()
    assert {sample.labels["label"]: sample.value for sample in samples(text)} == values


def test_free_port() -> None:
    port = free_port()
    with socket.create_server((HOST, port)):
        with pytest.raises(OSError, match=rf"port {port} of 127.0.0.1 can't be used: "):
            free_port(port)
        assert free_port() != port
    with pytest.raises(OSError, match=rf"http://127.0.0.1:{port}/metrics can't be read: "):
        fetch(f"http://{HOST}:{port}/metrics", 5.0)
