from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import FunctionType
from typing import Any
from weakref import ref

import dask
import pytest
from distributed.system_monitor import SystemMonitor
from hypothesis import given
from hypothesis import strategies as st
from marks import with_gilknocker

from otel_gil._snapshot import Snapshot
from otel_gil._samplers import gilknocker
from otel_gil.dask import _system_monitor
from otel_gil.dask._system_monitor import _StandIn

Follow = Callable[[], Callable[[], None]]

ENABLED = "distributed.admin.system-monitor.gil.enabled"


class Sampler:
    """A sampler that is told what to read."""

    forkable = True

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = Snapshot(0.5, 10.0, 20.0)

    def __call__(self) -> Snapshot | None:
        return self.snapshot

    def advance(self, blocked: float, free: float) -> None:
        assert self.snapshot
        self.snapshot = Snapshot(0.5, self.snapshot.blocked + blocked, self.snapshot.free + free)


@pytest.fixture
def sampler() -> Sampler:
    return Sampler()


@pytest.fixture
def follow(sampler: Sampler) -> Iterator[Follow]:
    with ExitStack() as stack:

        def follow() -> Callable[[], None]:
            undone = ExitStack()
            undone.callback(_system_monitor.follow(sampler))
            stack.callback(undone.close)
            return undone.close

        yield follow


@pytest.fixture
def without_gilknocker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gilknocker", None)


def seconds(monitor: SystemMonitor) -> float:
    return monitor.cumulative_gil_contention


def attributes(monitor: SystemMonitor) -> dict[str, Any]:
    return {name: value for name, value in vars(monitor).items() if "gil" in name}


@pytest.mark.usefixtures("without_gilknocker")
def test_present_and_future_monitors(follow: Follow, sampler: Sampler) -> None:
    present = SystemMonitor()
    assert "gil_contention" not in present.update()
    follow()
    future = SystemMonitor()
    for monitor in present, future:
        assert monitor.monitor_gil_contention
        assert monitor.recent()["gil_contention"] == 0.5  # the sampler's window, as long as there is nothing of its own
        assert seconds(monitor) == 10
    sampler.advance(0.8, 0.2)
    for monitor in present, future:
        assert monitor.update()["gil_contention"] == pytest.approx(0.8)
        assert monitor.recent()["gil_contention"] == pytest.approx(0.8)
        assert seconds(monitor) == pytest.approx(10.8)
    assert present.range_query(0)["gil_contention"] == [None, 0.5, pytest.approx(0.8)]
    assert future.range_query(0)["gil_contention"] == [0.5, pytest.approx(0.8)]


def test_each_monitor_has_its_own_interval(follow: Follow, sampler: Sampler) -> None:
    follow()
    often, seldom = SystemMonitor(), SystemMonitor()
    sampler.advance(1, 0)
    assert often.update()["gil_contention"] == 1
    sampler.advance(0, 1)
    assert often.update()["gil_contention"] == 0
    assert seldom.update()["gil_contention"] == 0.5
    assert seconds(often) == seconds(seldom) == 11


def test_an_update_right_after_another_repeats_it(follow: Follow, sampler: Sampler) -> None:
    follow()
    monitor = SystemMonitor()
    sampler.advance(0.4, 0.1)
    assert monitor.update()["gil_contention"] == pytest.approx(0.8)
    sampler.advance(0, 0.003)
    assert monitor.update()["gil_contention"] == pytest.approx(0.8)
    sampler.advance(0, 0.5)
    assert monitor.update()["gil_contention"] == 0


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), max_size=50))
def test_contention_is_always_a_share(increases: list[tuple[float, float]]) -> None:
    sampler = Sampler()
    stand_in = _StandIn(lambda: sampler.snapshot or Snapshot(0, 0, 0), None)
    for blocked, free in increases:
        sampler.advance(blocked, free)
        assert 0 <= stand_in.contention_metric <= 1


def test_a_sampler_that_has_stopped(follow: Follow, sampler: Sampler) -> None:
    """Nothing is known any more: the counter stands still."""
    follow()
    monitor = SystemMonitor()
    sampler.advance(1, 0)
    monitor.update()
    sampler.snapshot = None
    monitor.update()
    assert seconds(monitor) == 11


@pytest.mark.usefixtures("without_gilknocker")
def test_restores_what_was_there_without_gilknocker(follow: Follow, sampler: Sampler) -> None:
    of_class = dict(vars(SystemMonitor))
    present = SystemMonitor()
    before = dict(attributes(present)), set(present.quantities)
    restore = follow()
    future = SystemMonitor()
    for monitor in present, future:
        monitor.update()
    restore()
    assert dict(vars(SystemMonitor)) == of_class
    for monitor in present, future:
        assert (attributes(monitor), set(monitor.quantities)) == before
        assert "gil_contention" not in monitor.update()


@with_gilknocker
def test_restores_what_was_there_with_gilknocker(follow: Follow, sampler: Sampler) -> None:
    present = SystemMonitor()
    before = attributes(present)
    knocker = present._gilknocker
    restore = follow()
    assert not knocker.is_running
    future = SystemMonitor()
    sampler.advance(100, 0)
    present.update()
    assert seconds(present) == 110
    restore()
    assert attributes(present) == before
    assert type(future._gilknocker) is type(knocker)
    for monitor in present, future:
        assert monitor._gilknocker.is_running
        assert seconds(monitor) < 1
        assert 0 <= monitor.update()["gil_contention"] <= 1
        monitor.close()
        assert not monitor._gilknocker.is_running


def test_a_failure_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, sampler: Sampler) -> None:
    before = dict(vars(SystemMonitor))
    monkeypatch.setattr(_system_monitor, "_enabled", dict().__getitem__)
    with pytest.raises(TypeError):
        _system_monitor.follow(sampler)
    assert dict(vars(SystemMonitor)) == before


@with_gilknocker
def test_a_closed_monitor_stays_closed(follow: Follow) -> None:
    closed_before, closed_meanwhile = SystemMonitor(), SystemMonitor()
    closed_before.close()
    restore = follow()
    future = SystemMonitor()
    for monitor in closed_meanwhile, future:
        monitor.close()
        monitor.close()  # as a server does
    restore()
    assert not future.monitor_gil_contention
    for monitor in closed_before, closed_meanwhile:
        assert not monitor._gilknocker.is_running
    for monitor in closed_before, closed_meanwhile, future:
        monitor.update()  # as Dask's Prometheus collector goes on to do
        monitor.close()


@pytest.mark.parametrize("gilknocker_is_there", [pytest.param(True, marks=with_gilknocker), False])
def test_what_is_switched_off_stays_off(
    follow: Follow, gilknocker_is_there: bool, request: pytest.FixtureRequest
) -> None:
    if not gilknocker_is_there:
        request.getfixturevalue("without_gilknocker")
    with dask.config.set({ENABLED: False}):
        present = SystemMonitor()
        restore = follow()
        by_configuration = SystemMonitor()
        on = SystemMonitor(monitor_gil_contention=True)
    by_argument = SystemMonitor(monitor_gil_contention=False)
    assert "gil_contention" in on.update()
    for monitor in present, by_configuration, by_argument:
        assert not monitor.monitor_gil_contention
        assert "gil_contention" not in monitor.update()
    restore()
    assert "gil_contention" not in present.update()
    on.close()


def test_monitors_are_not_kept(follow: Follow) -> None:
    follow()
    monitor = ref(SystemMonitor())
    gc.collect()
    assert monitor() is None


def renamed(method: Any, name: str) -> FunctionType:
    """The method of a SystemMonitor in which that is called something else."""
    code = method.__code__
    names = tuple("another" if known == name else known for known in code.co_names)
    return FunctionType(code.replace(co_names=names), method.__globals__, method.__name__)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("update", "_gilknocker"),
        ("update", "cumulative_gil_contention"),
        ("close", "stop"),
        ("__init__", "quantities"),
    ],
)
def test_another_shape_is_left_alone(
    method: str, name: str, follow: Follow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SystemMonitor, method, renamed(getattr(SystemMonitor, method), name))
    before = dict(vars(SystemMonitor))
    with caplog.at_level(logging.WARNING):
        restore = follow()
    assert dict(vars(SystemMonitor)) == before
    restore()
    assert dict(vars(SystemMonitor)) == before
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("Dask's own GIL metrics are left as they are: distributed ")
    assert f"(SystemMonitor.{method} was expected to use {name})" in message


@pytest.mark.parametrize("method", ["update", "close"])
def test_a_method_that_is_not_there(
    method: str, follow: Follow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(SystemMonitor, method)
    follow()
    assert f"SystemMonitor.{method} was expected to use monitor_gil_contention, _gilknocker" in caplog.text


def test_no_such_module(follow: Follow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "distributed.system_monitor", None)
    follow()
    assert "distributed.system_monitor" in caplog.text
