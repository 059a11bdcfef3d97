"""The samplers, and which of them is used where."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from otel_gil._samplers import disabled, gilknocker, observer, poisson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import Context

    from otel_gil._snapshot import Snapshot, Stall

_logger = logging.getLogger(__name__)


class Sampler(Protocol):
    """Measures the GIL of this process, from `start` to `stop`."""

    def start(self, since: Snapshot | None = None) -> None:
        """Start, or start again in a forked child, with the totals to go on from.

        Raises:
            RuntimeError: a thread can't be started.
        """

    def stop(self) -> None:
        """Stop, and leave no thread behind."""

    def read(self) -> Snapshot | None:
        """What is known now; None where nothing is. For any number of threads at once."""

    @property
    def forkable(self) -> bool:
        """Whether the process may fork while it runs. Else it is stopped before, and started again in both."""


UNAVAILABLE: dict[str, Callable[[], str | None]] = {
    "disabled": disabled.unavailable,
    "observer": observer.unavailable,
    "poisson": poisson.unavailable,
    "gilknocker": gilknocker.unavailable,
}
"""Says of each sampler why it can't be used here."""

_AUTO = ("disabled", "observer", "poisson", "gilknocker")
"""`auto` takes the first that can be used."""


def choose() -> tuple[str | None, dict[str, str]]:
    """The sampler that `auto` takes, None where there is none, and why it does not take those before it."""
    reasons: dict[str, str] = {}
    for name in _AUTO:
        reason = UNAVAILABLE[name]()
        if reason is None:
            return name, reasons
        reasons[name] = reason
    return None, reasons


def create(  # noqa: PLR0913, PLR0917 - what there is to configure
    name: str,
    interval: float | None,
    window: float,
    record_waits: Callable[[Iterable[float]], None],
    report_stall: Callable[[Stall, int, Context | None], None] = lambda stall, moment, context: None,  # noqa: ARG005
    observing: observer.Observing = observer.Observing(),  # noqa: B008 - it can't be changed
) -> Sampler | None:
    """The sampler of that name, not yet started; None where `auto` finds none, or for `none`.

    Args:
        name: `auto`, `none`, or one of those in `UNAVAILABLE`, which must be available.
        interval: mean seconds between two samples; None for the sampler's default.
        window: seconds that the contention is taken over.
        record_waits: is given the seconds that sampled requests for the GIL had to wait.
        report_stall: is given each hold that was too long, with the moment of its end in nanoseconds since 1970, and
            the context in which its thread ran, None where that is not known.
        observing: what only `observer` can be asked for.
    """

    def auto() -> Sampler | None:
        return create("auto", interval, window, record_waits, report_stall, observing)

    if name == "auto":
        chosen, reasons = choose()
        because = "; ".join(f"not {name}: {reason}" for name, reason in reasons.items()) or "it is disabled"
        if chosen is None:
            _logger.warning("The GIL can't be measured here, its metrics are absent (%s)", because)
            return None
        if "observer" in reasons and observer.expected():
            _logger.warning(
                "Who holds the GIL and who waits for it can't be told here, as the sampler 'observer' can't be used: "
                "%s. Contention is measured with '%s'",
                reasons["observer"],
                chosen,
            )
        else:
            _logger.info("The GIL is measured with the sampler '%s' (%s)", chosen, because)
        name = chosen
    if name == "observer":
        return observer.ObserverSampler(interval or observer.INTERVAL, window, observing, record_waits, report_stall)
    if name == "poisson":
        return poisson.PoissonSampler(interval or poisson.INTERVAL, window, record_waits)
    if name == "gilknocker":
        return gilknocker.GilknockerSampler(window)
    if name == "disabled":
        return disabled.DisabledGilSampler(auto)
    return None
