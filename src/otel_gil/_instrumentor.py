"""The instrumentor: brings configuration, sampler and instruments together."""

from __future__ import annotations

import logging
import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.metrics import MeterProvider, get_meter_provider

from otel_gil import _config, _samplers, _stalls, _thread_end
from otel_gil._metrics import GilMetrics
from otel_gil._subinterpreters import in_main_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from opentelemetry._logs import LoggerProvider

    from otel_gil._snapshot import Snapshot

_logger = logging.getLogger(__name__)

_metrics_of: WeakKeyDictionary[MeterProvider, GilMetrics] = WeakKeyDictionary()


_FOR_OTHER_INSTRUMENTORS = {"tracer_provider"}
"""What some give to each instrumentor alike."""


def measuring() -> tuple[MeterProvider, GilMetrics] | None:
    """The metrics that have this process's one sampler, and their provider; None where nothing is measured."""
    return next((item for item in list(_metrics_of.items()) if item[1].sampler), None)


def read() -> Snapshot | None:
    """What this process's one sampler knows now; None where nothing is measured or known."""
    found = measuring()
    return found[1].read() if found else None


@cache
def _follow_forks() -> None:
    # Once, as the interpreter does not take hooks back.
    def each(step: Callable[[GilMetrics], None]) -> Callable[[], None]:
        def hook() -> None:
            for metrics in list(_metrics_of.values()):
                step(metrics)

        return hook

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=each(GilMetrics.before_fork),
            after_in_parent=each(GilMetrics.after_fork_in_parent),
            after_in_child=each(GilMetrics.after_fork_in_child),
        )
        _thread_end.follow(_stop)


def _stop() -> None:
    for metrics in list(_metrics_of.values()):
        metrics.stop()


class GilInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Measures the GIL of this process: `instrument` starts, `uninstrument` stops. See `otel_gil`."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: what is instrumented is the interpreter."""
        return ()

    def _instrument(  # noqa: D417, PLR0913 - what there is to configure, and all else is a mistake
        self,
        *,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        sampler: str | None = None,
        sampling_interval: float | None = None,
        contention_window: float | None = None,
        holders: str | None = None,
        stall_threshold: float | None = None,
        stall_stderr: bool | None = None,
        **others: Any,
    ) -> None:
        """Start to measure. What is not given here is taken from the environment.

        Does nothing in a subinterpreter, where `opentelemetry-instrument` calls it as well. An argument that there is
        not is a warning.

        Args:
            meter_provider: gets the metrics; default: the global one.
            logger_provider: gets the observer's events of stalls; default: the global one.
            sampler: `auto`, `observer`, `poisson`, `gilknocker` or `none`.
            sampling_interval: mean milliseconds between two samples, 1 to 1000, and more while all see the same;
                default: the sampler's.
            contention_window: milliseconds over which the contention is taken, 1000 to 3600000.
            holders: what the observer gives the time held and waited by: `none`, `thread` or `function`.
            stall_threshold: milliseconds of a hold that the observer takes for a stall, 100 to 3600000.
            stall_stderr: whether the observer writes a stall to standard error while it lasts.

        Raises:
            ValueError: an argument can't be used.
        """
        for unknown in others.keys() - _FOR_OTHER_INSTRUMENTORS:
            _config.warn_of_unknown(unknown, ("meter_provider", "logger_provider"))
        if not in_main_interpreter():
            _logger.debug("The GIL is measured in the main interpreter only, which this is not")
            return
        name = _config.SAMPLER.resolve(sampler)
        interval = _config.SAMPLING_INTERVAL.resolve(sampling_interval)
        window = _config.CONTENTION_WINDOW.resolve(contention_window) / 1000
        observing = _config.observing(holders, stall_threshold, stall_stderr)
        if name == "none":
            return
        provider = meter_provider or get_meter_provider()
        if provider not in _metrics_of:
            _metrics_of[provider] = GilMetrics(provider)
        metrics = _metrics_of[provider]
        if created := _samplers.create(
            name,
            interval and interval / 1000,
            window,
            metrics.record_waits,
            partial(_stalls.emit, logger_provider=logger_provider),
            observing,
        ):
            _follow_forks()  # before the start, in the middle of which another thread may fork
            metrics.start(created)

    def _uninstrument(self, **_: Any) -> None:
        """Stop to measure. The metrics are absent from now on, and go on from their totals if it is started again."""
        _stop()
