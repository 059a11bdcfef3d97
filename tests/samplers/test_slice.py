"""The slice of a sampler's thread: shorter, and nothing else of it or of other threads changed."""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from otel_gil._samplers import slice as _slice
from otel_gil._samplers.thread import SamplerThread

Eventually = Callable[[Callable[[], bool]], None]

linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in _slice._CALLS, reason="the calls are not known here"
)
RELEASE = tuple(int(number) for number in platform.release().split("-")[0].split(".")[:2])
taken = pytest.mark.skipif(sys.platform == "linux" and RELEASE < (6, 12), reason="Linux has slices since 6.12")


def attributes() -> tuple[int, ...]:
    buffer = ctypes.create_string_buffer(_slice._ATTRIBUTES.size)
    assert ctypes.CDLL(None).syscall(_slice._CALLS[platform.machine()][0], 0, buffer, len(buffer), 0) == 0
    found: tuple[int, ...] = _slice._ATTRIBUTES.unpack(buffer)
    return found


@linux
@taken
def test_of_a_sampler_and_of_nobody_else(eventually: Eventually) -> None:
    before = attributes()
    found: list[tuple[int, ...]] = []
    SamplerThread(lambda _: found.append(attributes()))
    eventually(lambda: bool(found))
    assert found == [(*before[:5], _slice.NANOSECONDS, *before[6:])]
    assert attributes() == before


@linux
@pytest.mark.parametrize("policy", ["SCHED_OTHER", "SCHED_BATCH", "SCHED_IDLE"])
def test_priority_stays(run: Any, policy: str) -> None:
    """Where it can't be set back by the process, and where it could be."""
    result: CompletedProcess[str] = run(f"""
import os
from otel_gil._samplers import slice as _slice
os.nice(7)
os.sched_setscheduler(0, os.{policy}, os.sched_param(0))
took = _slice.shorten()
assert os.getpriority(os.PRIO_PROCESS, 0) == 7
assert os.sched_getscheduler(0) == os.{policy}
print(took)
""")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{policy != 'SCHED_IDLE'}\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [("slice.platform.machine", lambda: "vax"), ("slice.sys.platform", "win32"), ("slice.ctypes", None)],
)
def test_not_known_here(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    monkeypatch.setattr(f"otel_gil._samplers.{name}", value)
    assert not _slice.shorten()


@linux
def test_a_kernel_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a sandbox may: the numbers are those of no call."""
    monkeypatch.setitem(_slice._CALLS, platform.machine(), (100_000, 100_000))
    ended = threading.Event()
    SamplerThread(lambda _: ended.set())
    assert ended.wait(20)
    assert not _slice.shorten()
