"""What the environment and the arguments of `instrument` ask for."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otel_gil._samplers import UNAVAILABLE
from otel_gil._samplers.observer import Observing
from otel_gil.environment_variables import (
    OTEL_PYTHON_GIL_CONTENTION_WINDOW,
    OTEL_PYTHON_GIL_HOLDERS,
    OTEL_PYTHON_GIL_SAMPLER,
    OTEL_PYTHON_GIL_SAMPLING_INTERVAL,
    OTEL_PYTHON_GIL_STALL_STDERR,
    OTEL_PYTHON_GIL_STALL_THRESHOLD,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_logger = logging.getLogger(__name__)

SAMPLERS = ("auto", "observer", "poisson", "gilknocker", "none")
HOLDERS = ("none", "thread", "function")


@dataclass(frozen=True)
class Option:
    """A thing to configure.

    Attributes:
        name: the argument of `instrument`.
        variable: the environment variable, used where there is no such argument.
        default: used where there is neither.
        parse: makes the value; raises ValueError with what the value is not, as in "is not a number".
    """

    name: str
    variable: str
    default: Any
    parse: Callable[[Any], Any]

    def resolve(self, argument: Any = None) -> Any:
        """The value to use.

        Raises:
            ValueError: the argument can't be used. A variable that can't be used is a warning.
        """
        if argument is not None:
            try:
                return self.parse(argument)
            except ValueError as error:
                raise ValueError(f"{self.name}={argument!r} {error}") from None
        text = os.environ.get(self.variable, "").strip()
        if not text:
            return self.default
        try:
            return self.parse(text)
        except ValueError as error:
            default = "the sampler's default" if self.default is None else self.default
            _logger.warning("%s=%r %s; using %s", self.variable, text, error, default)
            return self.default


def _one_of(*names: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        name = value.lower() if isinstance(value, str) else value
        if name not in names:
            raise ValueError(f"is not one of {', '.join(names)}")
        return str(name)

    return parse


def _sampler(value: Any) -> str:
    name = _one_of(*SAMPLERS)(value)
    if name in UNAVAILABLE and (reason := UNAVAILABLE[name]()):
        raise ValueError(f"is not available: {reason}")
    return name


def _milliseconds(low: int, high: int) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"is not a number of milliseconds from {low} to {high}")
        return number

    return parse


def _switch(value: Any) -> bool:
    found = {"true": True, "false": False}.get(str(value).lower())
    if found is None:
        raise ValueError("is neither true nor false")
    return found


SAMPLER = Option("sampler", OTEL_PYTHON_GIL_SAMPLER, "auto", _sampler)
SAMPLING_INTERVAL = Option("sampling_interval", OTEL_PYTHON_GIL_SAMPLING_INTERVAL, None, _milliseconds(1, 1000))
CONTENTION_WINDOW = Option(
    "contention_window", OTEL_PYTHON_GIL_CONTENTION_WINDOW, 10_000.0, _milliseconds(1000, 3_600_000)
)
HOLDERS_BY = Option("holders", OTEL_PYTHON_GIL_HOLDERS, "function", _one_of(*HOLDERS))
STALL_THRESHOLD = Option("stall_threshold", OTEL_PYTHON_GIL_STALL_THRESHOLD, 1000.0, _milliseconds(100, 3_600_000))
STALL_STDERR = Option("stall_stderr", OTEL_PYTHON_GIL_STALL_STDERR, False, _switch)

OPTIONS = (
    *(SAMPLER, SAMPLING_INTERVAL, CONTENTION_WINDOW),
    *(HOLDERS_BY, STALL_THRESHOLD, STALL_STDERR),
)


def warn_of_unknown(argument: str, besides: Sequence[str] = ()) -> None:
    """Warn of an argument of `instrument` that there is not.

    Args:
        argument: its name.
        besides: arguments that there are besides the options.
    """
    from difflib import get_close_matches

    names = [*besides, *(option.name for option in OPTIONS)]
    likely = get_close_matches(argument, names, 1)
    _logger.warning(
        "instrument() has no argument %r: it is ignored; %s",
        argument,
        f"is {likely[0]!r} meant?" if likely else f"there are {', '.join(names)}",
    )


def observing(
    holders: str | None = None,
    stall_threshold: float | None = None,
    stall_stderr: bool | None = None,
) -> Observing:
    """What the observer is asked for, by these arguments or else the environment.

    Raises:
        ValueError: an argument can't be used.
    """
    return Observing(
        HOLDERS_BY.resolve(holders),
        STALL_THRESHOLD.resolve(stall_threshold) / 1000,
        STALL_STDERR.resolve(stall_stderr),
    )
