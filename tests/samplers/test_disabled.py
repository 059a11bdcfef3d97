from __future__ import annotations

import sys
import time

import pytest

from otel_gil._snapshot import Snapshot
from otel_gil._samplers import disabled
from otel_gil._samplers.poisson import PoissonSampler


class _Successor:
    forkable = True

    since: Snapshot | None = None
    stopped = False

    def start(self, since: Snapshot | None = None) -> None:
        self.since = since

    def stop(self) -> None:
        self.stopped = True

    def read(self) -> Snapshot | None:
        return Snapshot(1.0, 2.0, 3.0)


class _Gil:
    enabled = False


@pytest.fixture
def gil(monkeypatch: pytest.MonkeyPatch) -> _Gil:
    gil = _Gil()
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil.enabled, raising=False)
    return gil


def test_available_where_the_gil_is_disabled(gil: _Gil) -> None:
    assert disabled.unavailable() is None
    gil.enabled = True
    assert disabled.unavailable() == "the GIL is enabled"


def test_available_never_before_there_was_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    assert disabled.unavailable() == "the GIL is enabled"


def test_no_contention(gil: _Gil) -> None:
    sampler = disabled.DisabledGilSampler(_Successor)
    sampler.start()
    begin = time.monotonic()
    time.sleep(0.1)
    reading = sampler.read() or Snapshot(1.0, 1.0, 1.0)
    assert (reading.contention, reading.blocked) == (0, 0)
    assert 0.1 <= reading.free <= time.monotonic() - begin + 0.01


def test_notices_that_the_gil_is_switched_on(gil: _Gil, caplog: pytest.LogCaptureFixture) -> None:
    successor = _Successor()
    sampler = disabled.DisabledGilSampler(lambda: successor)
    sampler.start()
    time.sleep(0.01)
    last = sampler.read()
    gil.enabled = True
    for _ in range(3):
        assert sampler.read() == Snapshot(1, 2, 3)
    assert successor.since == last
    assert len(caplog.records) == 1
    sampler.start(Snapshot(0.5, 7.0, 8.0))  # in a forked child
    assert successor.since == Snapshot(0.5, 7, 8)
    sampler.stop()
    assert successor.stopped


@pytest.mark.skipif(sys.platform != "linux", reason="the Poisson sampler needs Linux")
def test_the_reading_that_notices_it_has_totals_already(gil: _Gil) -> None:
    sampler = disabled.DisabledGilSampler(lambda: PoissonSampler(1.0, 10.0, lambda _: None))
    sampler.start()
    time.sleep(0.01)
    last = sampler.read()
    gil.enabled = True
    try:
        assert sampler.read() == last
    finally:
        sampler.stop()


def test_absent_where_the_gil_is_switched_on_and_nothing_can_measure_it(gil: _Gil) -> None:
    sampler = disabled.DisabledGilSampler(lambda: None)
    sampler.start()
    gil.enabled = True
    assert sampler.read() is None
    sampler.stop()


def test_goes_on_from_a_parent(gil: _Gil) -> None:
    sampler = disabled.DisabledGilSampler(_Successor)
    sampler.start(Snapshot(0.0, 5.0, 7.0))
    reading = sampler.read()
    assert reading
    assert reading.blocked == 5
    assert reading.free == pytest.approx(7, abs=0.5)
