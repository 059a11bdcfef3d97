"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from .otlp import Receiver, receiving
from .processes import Start, applications

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def on_linux() -> None:
    """Skip where the GIL is not measured exactly, and processes are not found in /proc."""
    if sys.platform != "linux":
        pytest.skip("end-to-end tests need Linux")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts applications under `opentelemetry-instrument`."""
    with applications() as start:
        yield start


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Receives OTLP."""
    with receiving() as receiver:
        yield receiver
