from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marks import with_gilknocker

from otel_gil._snapshot import Snapshot
from otel_gil._samplers import gilknocker
from otel_gil._samplers.gilknocker import Account, GilknockerSampler

Eventually = Callable[[Callable[[], bool]], None]

WINDOW = 10.0


def _f32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1.5), st.booleans()), max_size=50))
def test_account_whatever_the_metric_does(entries: list[tuple[float, float, bool]]) -> None:
    account = Account.open(100.0, Snapshot(0.0, 5.0, 7.0))
    now = 100.0
    for passed, metric, reset in entries:
        before = account.snapshot
        now += passed
        account = account.enter(metric, now, WINDOW)
        if reset:
            account = account.close()
        after = account.snapshot
        assert 0 <= after.contention <= 1
        assert after.blocked >= before.blocked
        assert after.free >= before.free
        assert after.blocked + after.free == pytest.approx(12 + now - 100)


def test_account_over_weeks() -> None:
    """Four weeks of windows whose metric is a float of 32 bits, read as it converges."""
    random = Random(0)
    window = 100.0
    account = Account.open(0.0, Snapshot(0.0, 0.0, 0.0))
    now = blocked = 0.0
    while now < 28 * 86400:
        truth = random.random()
        for age in (0.5, 50.0, window):
            noise = random.uniform(-0.1, 0.1) if age < window else 0
            account = account.enter(_f32(truth + noise), now + age, window)
        account = account.close()
        now += window
        blocked += window * truth
    assert account.snapshot.blocked == pytest.approx(blocked, abs=5)
    assert account.snapshot.blocked + account.snapshot.free == pytest.approx(now)


def test_account_contention_is_of_one_window() -> None:
    """No dip after a reset: the part of the window before it is that of the metric then."""
    account = Account.open(0.0, Snapshot(0.0, 0.0, 0.0))
    account = account.enter(0.8, 10.0, WINDOW).close()
    assert account.snapshot.contention == 0.8
    assert account.enter(0.0, 10.25, WINDOW).snapshot.contention == pytest.approx(0.78)
    assert account.enter(0.4, 15.0, WINDOW).snapshot.contention == pytest.approx(0.6)
    assert account.enter(0.3, 25.0, WINDOW).snapshot.contention == 0.3


@pytest.fixture
def sampler(eventually: Eventually) -> Iterator[GilknockerSampler]:
    sampler = GilknockerSampler(1.0)
    sampler.start()
    eventually(lambda: sampler.read() is not None)
    yield sampler
    sampler.stop()


@with_gilknocker
def test_first_reading_after_a_hold_has_it(sampler: GilknockerSampler, hold: Callable[[float], None]) -> None:
    for _ in range(2):
        before = sampler.read()
        hold(2.0)
        after = sampler.read()
        assert before
        assert after
        assert after.blocked - before.blocked > 1.4
        assert after.contention > 0.5
        time.sleep(0.3)


def test_a_hold_is_not_free_though_its_round_ends_late(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually, hold: Callable[[float], None]
) -> None:
    """As on a busy machine, where gilknocker's threads have to wait for a core."""

    class Knocker:
        updated = float("inf")  # when the round that met with the hold ends

        def start(self) -> None: ...

        def stop(self) -> None: ...

        @property
        def contention_metric(self) -> float:
            return 0.9 if time.monotonic() >= self.updated else 0.0

    knocker = Knocker()
    monkeypatch.setitem(sys.modules, "gilknocker", SimpleNamespace(KnockKnock=lambda *_: knocker))
    sampler = GilknockerSampler(10.0)
    sampler.start()
    try:
        eventually(lambda: sampler.read() is not None)
        before = sampler.read()
        knocker.updated = time.monotonic() + 0.8
        hold(0.6)
        after = sampler.read()
    finally:
        sampler.stop()
    assert before
    assert after
    assert after.blocked - before.blocked > 0.5


@with_gilknocker
def test_idle_over_several_resets(sampler: GilknockerSampler) -> None:
    time.sleep(2.5)
    reading = sampler.read()
    assert reading
    assert reading.contention < 0.4
    assert reading.blocked < 1.2
    assert reading.free > 1


@with_gilknocker
def test_leaves_nothing_behind(eventually: Eventually) -> None:
    """No thread: gilknocker's end when nothing refers to it, such as its own call at exit."""
    threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
    for _ in range(2):
        sampler = GilknockerSampler(1.0)
        sampler.start()
        sampler.stop()
        assert sampler.read() is None
    if sys.platform == "linux":
        eventually(lambda: len(os.listdir("/proc/self/task")) <= threads)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert gilknocker.unavailable() == "gilknocker is not installed (pip install 'otel-gil[gilknocker]')"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Installs a gilknocker whose module has this code."""
    package = tmp_path / "gilknocker" / "__init__.py"
    package.parent.mkdir()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleSpec(name, None, origin=str(package)))
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    gilknocker._try.cache_clear()
    yield package.write_text  # type: ignore[misc]
    gilknocker._try.cache_clear()


WORKS = """
class KnockKnock:
    contention_metric = 0.0
    def __init__(self, *intervals): assert intervals == (1000, 50000, 1000)
    def start(self): ...
    def reset_contention_metric(self): ...
"""


def test_it_is_tried_in_another_process(installed: Callable[[str], None]) -> None:
    installed(WORKS)
    assert gilknocker.unavailable() is None


@pytest.mark.parametrize(
    "failure", ["import os; os.kill(os.getpid(), 11)", "import os; os.abort()", "raise ImportError"]
)
def test_one_that_ends_its_process_is_unavailable(failure: str, installed: Callable[[str], None]) -> None:
    installed(WORKS.replace("def start(self): ...", f"def start(self): {failure}"))
    assert (gilknocker.unavailable() or "").startswith("gilknocker failed when it was tried first, exit code ")


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="no SIGCHLD here")
def test_the_exit_code_may_be_lost(installed: Callable[[str], None]) -> None:
    """To an application that ignores SIGCHLD."""
    installed("import os; os.kill(os.getpid(), 11)")
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert "gilknocker failed when it was tried first" in (gilknocker.unavailable() or "")
    finally:
        signal.signal(signal.SIGCHLD, previous)


def test_one_that_hangs_is_unavailable(installed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    installed("import time; time.sleep(60)")
    monkeypatch.setattr(gilknocker, "_TRIAL_ENDS", 0.5)
    assert "could not be tried first" in (gilknocker.unavailable() or "")


def test_it_is_tried_once(installed: Callable[[str], None], tmp_path: Path) -> None:
    installed(f"open({str(tmp_path / 'tried')!r}, 'a').write('once '){WORKS}")
    assert gilknocker.unavailable() is None
    assert gilknocker.unavailable() is None
    assert (tmp_path / "tried").read_text() == "once "


def test_a_program_that_embeds_python_is_not_started(
    installed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(WORKS)
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    assert "'/usr/bin/uwsgi' is not known to be Python" in (gilknocker.unavailable() or "")


def test_unavailable_on_a_cpython_that_it_is_not_known_to_work_on(
    installed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("import os; os.kill(os.getpid(), 11)")
    version = type("Version", (tuple,), {"major": 3, "minor": 14})((3, 14, 0))
    monkeypatch.setattr(sys, "version_info", version)
    assert "is not known to work on cpython 3.14" in (gilknocker.unavailable() or "")


@pytest.mark.skipif(sys.version_info[:2] <= gilknocker._NEWEST, reason="gilknocker works on this CPython")
def test_asked_for_where_it_does_not_work(run: Callable[..., "subprocess.CompletedProcess[str]"]) -> None:
    """Whether it is installed or not: no crash, a warning, and the sampler that auto takes."""
    code = """
import time
from opentelemetry.sdk.metrics import MeterProvider
from otel_gil import GilInstrumentor
from otel_gil._instrumentor import read
GilInstrumentor().instrument(meter_provider=MeterProvider(), sampling_interval=1)
time.sleep(0.3)
assert read()
"""
    done = run(code, OTEL_PYTHON_GIL_SAMPLER="gilknocker")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("OTEL_PYTHON_GIL_SAMPLER='gilknocker' is not available: gilknocker is not ")
    assert done.stderr.endswith("; using auto\n")
