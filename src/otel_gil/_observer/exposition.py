"""A snapshot in the text format of Prometheus, version 0.0.4, named as OpenTelemetry's exporter would name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_gil._snapshot import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(snapshot: Snapshot) -> str:
    """All metrics of a snapshot. One without samples is absent: what is not known, or not there."""
    return "".join(
        [
            _metric(
                "cpython_gil_contention",
                "gauge",
                "Share of the last seconds in which a thread that asked for the GIL had to wait for it.",
                [("", snapshot.contention)],
            ),
            _metric(
                "cpython_gil_time_seconds_total",
                "counter",
                "Time in which a thread that asked for the GIL had to wait for it (blocked), or not (free).",
                [
                    (_labels(cpython_gil_state="blocked"), snapshot.blocked),
                    (_labels(cpython_gil_state="free"), snapshot.free),
                ],
            ),
            _metric(
                "cpython_gil_held_time_seconds_total",
                "counter",
                "Time for which the GIL was held, by whom.",
                [(_holder(held.thread, held.function), held.seconds) for held in snapshot.held],
            ),
            _metric(
                "cpython_gil_waiting",
                "gauge",
                "Threads that wait for the GIL at this moment.",
                [("", snapshot.waiting)],
            ),
            _metric(
                "cpython_gil_wait_time_seconds_total",
                "counter",
                "Time that threads have waited for the GIL, all of them together.",
                [("", snapshot.wait_time)],
            ),
            _metric(
                "cpython_gil_switches_total",
                "counter",
                "How often the GIL went to another thread.",
                [("", snapshot.switches)],
            ),
            _metric(
                "cpython_gil_stalls_total",
                "counter",
                "Holds of the GIL longer than the threshold, one in progress included.",
                [("", snapshot.stalls)],
            ),
            _metric(
                "cpython_gil_stall_seconds",
                "gauge",
                "How long the hold in progress has lasted that is longer than the threshold, and whose it is.",
                [(_holder(stall.thread, stall.function), stall.seconds)] if (stall := snapshot.stall) else [],
            ),
        ]
    )


def _metric(name: str, kind: str, description: str, samples: Iterable[tuple[str, float | None]]) -> str:
    lines = [f"{name}{labels} {value!r}\n" for labels, value in samples if value is not None]
    return "".join([f"# HELP {name} {description}\n# TYPE {name} {kind}\n", *lines]) if lines else ""


def _holder(thread: str, function: str) -> str:
    return _labels(thread_name=thread, code_function_name=function) if function else _labels(thread_name=thread)


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
