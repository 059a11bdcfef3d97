"""Programs under `opentelemetry-instrument`, and what their /metrics say."""

from __future__ import annotations

import os
import re
import socket
import sys
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOST = "127.0.0.1"

# What `opentelemetry-instrument` does, found even where the directory of the scripts is not on the PATH.
INSTRUMENT = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"

_LABELS = r'\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}'
_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|Inf|NaN)"
_SAMPLE = re.compile(rf"([\w:]+)(?:{_LABELS})?[ \t]+({_NUMBER})(?:[ \t]+-?\d+)?\s*")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Sample(NamedTuple):
    """A line of an exposition."""

    name: str
    labels: dict[str, str]
    value: float


def instrument(command: Sequence[str]) -> list[str]:
    """The command that runs another under `opentelemetry-instrument`."""
    return [sys.executable, "-c", INSTRUMENT, *command]


def free_port(port: int = 0) -> int:
    """A port of `HOST` that nobody listens on: this one, or any for 0.

    Raises:
        OSError: it can't be used.
    """
    with socket.socket() as listener:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise OSError(f"port {port} of {HOST} can't be used: {error.strerror}") from None
        free: int = listener.getsockname()[1]
        return free


def fetch(url: str, timeout: float) -> str:
    """What is served there.

    Args:
        url: as of /metrics.
        timeout: seconds to wait for the next byte.

    Raises:
        OSError: nothing is.
    """
    # A proxy, which the environment may ask for, has no way to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            return str(response.read().decode(errors="replace"))
    except (OSError, HTTPException) as error:
        raise OSError(f"{url} can't be read: {error}") from error


def samples(text: str) -> Iterator[Sample]:
    """Read Prometheus' text exposition format, 0.0.4. What is no sample is left out."""
    for line in text.split("\n"):
        if found := _SAMPLE.fullmatch(line):
            name, labels, value = found.groups()
            yield Sample(name, {key: _unescape(text) for key, text in _LABEL.findall(labels or "")}, float(value))


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda escaped: "\n" if escaped[1] == "n" else escaped[1], text)
