from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest

from otel_gil import _samplers
from otel_gil._samplers import observer
from otel_gil._samplers.disabled import DisabledGilSampler
from otel_gil._samplers.gilknocker import GilknockerSampler
from otel_gil._samplers.observer import ObserverSampler
from otel_gil._samplers.poisson import PoissonSampler


def _create(name: str) -> _samplers.Sampler | None:
    return _samplers.create(name, 0.02, 10.0, lambda _: None)


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes just these samplers available."""

    def only(*names: str) -> None:
        for name in _samplers.UNAVAILABLE:
            reason = None if name in names else f"no {name} here"
            monkeypatch.setitem(_samplers.UNAVAILABLE, name, partial(str, reason) if reason else lambda: None)

    return only


@pytest.mark.parametrize(
    ("names", "sampler", "words"),
    [
        (["disabled", "poisson"], DisabledGilSampler, "'disabled' (it is disabled)"),
        (["disabled", "observer"], DisabledGilSampler, "'disabled' (it is disabled)"),
        (["observer", "poisson", "gilknocker"], ObserverSampler, "'observer' (not disabled: no disabled here)"),
        (["poisson", "gilknocker"], PoissonSampler, "'poisson' (not disabled: no disabled here; not observer: no obs"),
        (["gilknocker"], GilknockerSampler, "; not observer: no observer here; not poisson: no poisson here)"),
    ],
)
def test_auto_takes_the_first_and_says_why(
    names: list[str],
    sampler: type,
    words: str,
    available: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    available(*names)
    monkeypatch.setattr(observer, "expected", lambda: False)
    caplog.set_level(logging.INFO)
    assert isinstance(_create("auto"), sampler)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert words in record.getMessage()


@pytest.mark.parametrize(("names", "sampler"), [(["poisson", "gilknocker"], "poisson"), (["gilknocker"], "gilknocker")])
def test_auto_without_an_observer_where_one_should_be_is_a_warning(
    names: list[str],
    sampler: str,
    available: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    available(*names)
    monkeypatch.setattr(observer, "expected", lambda: True)
    _create("auto")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "Who holds the GIL and who waits for it can't be told here, as the sampler 'observer' can't be used: "
        f"no observer here. Contention is measured with '{sampler}'"
    )


def test_auto_where_the_gil_is_disabled_misses_no_observer(
    available: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody holds a GIL that is disabled."""
    available("disabled", "poisson")
    monkeypatch.setattr(observer, "expected", lambda: True)
    _create("auto")
    assert not caplog.records


def test_auto_without_any_is_a_warning(available: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    available()
    assert _create("auto") is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "not gilknocker: no gilknocker here" in record.getMessage()


def test_by_name() -> None:
    assert isinstance(_create("poisson"), PoissonSampler)
    assert isinstance(_create("observer"), ObserverSampler)
    assert isinstance(_create("gilknocker"), GilknockerSampler)
    assert _create("none") is None
