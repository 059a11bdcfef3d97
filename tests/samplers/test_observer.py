"""The observer at work: who holds the GIL, who waits for it, what is told of a stall, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path

import pytest
from marks import with_observer

from otel_gil import _samplers
from otel_gil._samplers import observer
from otel_gil._samplers.observer import Observing, ObserverSampler
from otel_gil._snapshot import Snapshot, Stall

Hold = Callable[[float], None]
Eventually = Callable[[Callable[[], bool]], None]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

HERE = "test_observer."


class Observed:
    """An observer, and what it has told."""

    def __init__(self, interval: float = 0.005, threshold: float = 0.5, holders: str = "function") -> None:
        self.waits: list[float] = []
        self.stalls: list[tuple[Stall, int, Context | None]] = []
        self.sampler = ObserverSampler(
            interval,
            10.0,
            Observing(holders, threshold),
            self.waits.extend,
            lambda stall, moment, context: self.stalls.append((stall, moment, context)),
        )
        self.sampler.start()

    def read(self) -> Snapshot:
        while (found := self.sampler.read()) is None:
            time.sleep(0.001)
        return found


@pytest.fixture
def observed() -> Iterator[Observed]:
    found = Observed()
    yield found
    found.sampler.stop()


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def during(observed: Observed, work: Callable[[], object]) -> tuple[Snapshot, Snapshot]:
    before = observed.read()
    work()
    return before, observed.read()


def seconds(before: Snapshot, after: Snapshot, what: str) -> dict[tuple[str, str], float]:
    """By thread and function, from one reading to the other."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for time_ in getattr(after, what) or ():
        found[time_.thread, time_.function.replace("tests.samplers.", "")] += time_.seconds
    for time_ in getattr(before, what) or ():
        found[time_.thread, time_.function.replace("tests.samplers.", "")] -= time_.seconds
    return found


def in_threads(work: Callable[[], object], *names: str) -> None:
    threads = [threading.Thread(target=work, name=name) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@with_observer
def test_a_lone_loop_holds_and_nobody_waits(observed: Observed) -> None:
    before, after = during(observed, lambda: spin(2.0))
    assert after.blocked - before.blocked > 1.7
    assert after.contention > 0.85
    assert (after.contended or 0) - (before.contended or 0) < 0.3
    held = seconds(before, after, "held")
    assert held["MainThread", HERE + "spin"] > 0.8 * (after.blocked - before.blocked)


@with_observer
@pytest.mark.parametrize("holders", ["function", "thread", "none"])
def test_three_loops(holders: str) -> None:
    """One has it, and two wait."""
    observed = Observed(holders=holders)
    try:
        before, after = during(observed, lambda: in_threads(lambda: spin(2.0), "a", "b", "c"))
    finally:
        observed.sampler.stop()
    blocked = after.blocked - before.blocked
    assert blocked > 1.6
    assert 0.7 * blocked < (after.contended or 0) - (before.contended or 0) <= blocked + 1e-6
    waited = (after.wait_time or 0) - (before.wait_time or 0)
    # Less than 2 where a thread that is woken to ask again has no core to do it.
    assert 0.8 * blocked < waited < 2.5 * blocked
    assert (after.switches or 0) - (before.switches or 0) > 50
    held, waits = seconds(before, after, "held"), seconds(before, after, "waited")
    if holders == "none":
        assert not held
        assert not waits
        return
    function = HERE + "spin" if holders == "function" else ""
    for name in "abc":
        assert 0.1 * blocked < held[name, function] < 0.6 * blocked
        assert 0.1 * waited < waits[name, function] < 0.6 * waited
    assert sum(held.values()) == pytest.approx(blocked, abs=0.2)
    assert sum(waits.values()) == pytest.approx(waited, abs=0.4)


@with_observer
def test_nothing_is_stale(observed: Observed, hold: Hold) -> None:
    """The first reading after a change has all of it, also after a long rest."""
    time.sleep(1.0)
    before, after = during(observed, lambda: hold(1.0))
    assert after.blocked - before.blocked > 0.8
    before, after = during(observed, lambda: time.sleep(1.0))
    assert after.free - before.free > 0.8


@with_observer
def test_the_probe_waits(observed: Observed, hold: Hold) -> None:
    time.sleep(1.0)
    assert max(observed.waits, default=0.0) < 0.3
    del observed.waits[:]
    for _ in range(5):
        hold(0.3)
        time.sleep(0.01)
    assert max(observed.waits) > 0.05


@with_observer
def test_a_stall(observed: Observed, hold: Hold, eventually: Eventually) -> None:
    before = observed.read()
    begun = time.time()
    hold(1.5)
    during_it = observed.read()  # at once, when the recorder has not looked again
    eventually(lambda: bool(observed.stalls))
    ((stall, moment, _),) = observed.stalls
    assert 1.0 < stall.seconds < 1.8
    assert begun + 1.0 < moment / 1e9 < time.time()
    assert stall.thread == "MainThread"
    assert stall.native_id == threading.get_native_id()
    assert stall.file.endswith("conftest.py")
    assert "hold(1.5)\n" not in stall.stack
    assert ", in test_a_stall\n" in stall.stack
    assert (observed.read().stalls or 0) == (before.stalls or 0) + 1
    assert during_it.stall is None or during_it.stall.thread == "MainThread"
    assert observed.read().stall is None


STALL_AT_THE_END = """
import ctypes, time
from otel_gil import GilInstrumentor
GilInstrumentor().instrument()
time.sleep(0.3)  # until the probe has begun
ctypes.PyDLL(None).usleep(1_500_000)
"""


@with_observer
def test_a_stall_at_the_end_of_the_process(run: Run) -> None:
    """It is told, though the probe hardly has the time."""
    done = run(STALL_AT_THE_END)
    assert done.stderr.startswith("The GIL was held for 1."), done


@with_observer
def test_a_loop_is_no_stall(observed: Observed) -> None:
    """It gives the GIL to whoever asks."""
    spin(1.5)
    assert observed.read().stalls == 0


@with_observer
def test_the_context_of_a_stall(observed: Observed, hold: Hold, eventually: Eventually) -> None:
    from contextvars import ContextVar

    request: ContextVar[str] = ContextVar("request")

    def serve() -> None:
        request.set("the one")
        hold(1.2)

    time.sleep(0.3)  # until the probe has begun
    copy_context().run(serve)
    eventually(lambda: bool(observed.stalls))
    _, _, context = observed.stalls[0]
    assert context is not None
    assert context.copy().run(request.get) == "the one"


@with_observer
def test_threads_that_live_for_a_moment(observed: Observed) -> None:
    """Each has the name that `threading` gives it, less its number, whether somebody could ask for it or not."""
    before = observed.read()
    for _ in range(60):
        thread = threading.Thread(target=spin, args=(0.02,))
        thread.start()
        thread.join()
    after = observed.read()
    held = seconds(before, after, "held")
    assert held["Thread (spin)", HERE + "spin"] > 0.6 * (after.blocked - before.blocked)
    assert not any(thread.startswith("Thread-") for thread, _ in held)
    assert held["_unknown", HERE + "spin"] == 0


@with_observer
def test_who_waits_is_who_lives(observed: Observed) -> None:
    """Where threads come and go, most of the waits are theirs, not those of the ones that were at their addresses."""
    right = total = 0.0
    for turn in range(10):
        names = {f"{letter}{turn % 2}" for letter in "abc"}
        before, after = during(observed, partial(in_threads, partial(spin, 0.5), *names))
        for (name, _), waited in seconds(before, after, "waited").items():
            right += waited if name in names else 0.0
            total += waited
    assert total > 3.0
    assert right > 0.6 * total


@with_observer
def test_names(observed: Observed) -> None:
    import _thread

    before = observed.read()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(spin, 0.5).result()
    in_threads(lambda: spin(0.5), "mine-1")
    ended = threading.Event()

    def raw() -> None:
        spin(0.5)
        ended.set()

    _thread.start_new_thread(raw, ())
    assert ended.wait(20)
    held = seconds(before, observed.read(), "held")
    assert held["ThreadPoolExecutor", HERE + "spin"] > 0.15
    assert held["mine-1", HERE + "spin"] > 0.15
    assert held["Thread (raw)", HERE + "spin"] > 0.15


@with_observer
def test_a_thread_without_a_name_that_stalls(hold: Hold, eventually: Eventually) -> None:
    """It has begun just before, and nobody could ask for its name: by the function, in the event as in the metric."""
    observed = Observed()
    try:
        before = observed.read()

        def work() -> None:
            hold(1.2)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        eventually(lambda: bool(observed.stalls))
        ((stall, _, _),) = observed.stalls
        assert stall.thread == "Thread (work)"
        held = seconds(before, observed.read(), "held")
        assert max(held, key=lambda who: held[who])[0] == "Thread (work)"
    finally:
        observed.sampler.stop()


@with_observer
def test_the_switches_of_the_probe_are_not_counted(observed: Observed) -> None:
    time.sleep(0.5)
    before, after = during(observed, lambda: time.sleep(2.0))
    assert (after.switches or 0) - (before.switches or 0) <= 6


@with_observer
def test_started_and_stopped_again_and_again() -> None:
    """No thread, file or record is left, and totals go on."""
    threads, files = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    since = None
    for _ in range(300):
        observed = Observed()
        observed.sampler.stop()
        observed.sampler.start(since)
        found = observed.read()
        assert since is None or (found.blocked >= since.blocked and found.free >= since.free)
        since = found
        path = observer.record_path()
        observed.sampler.stop()
        assert not path or not Path(path).exists()
    assert len(os.listdir("/proc/self/fd")) == files
    time.sleep(0.1)  # threads that have ended, but for the last of it
    assert len(os.listdir("/proc/self/task")) <= threads + 2


AUTO = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING, stream=sys.stdout)
import otel_gil._samplers as samplers
created = samplers.create("auto", None, 10.0, lambda waits: None)
print(type(created).__name__)
"""


def test_auto_takes_it(run: Run) -> None:
    expected = "DisabledGilSampler" if _samplers.UNAVAILABLE["disabled"]() is None else "ObserverSampler"
    done = run(AUTO)
    assert (done.stdout, done.stderr) == (f"{expected}\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="there the fallback is gilknocker")
def test_without_the_extension(run: Run) -> None:
    """As where there was no compiler: a warning says so, and what to do, and contention is measured all the same."""
    done = run("import sys; sys.modules['otel_gil._recorder'] = None\n" + AUTO)
    warning, sampler = done.stdout.splitlines()
    assert sampler == "PoissonSampler"
    assert warning.startswith("WARNING Who holds the GIL and who waits for it can't be told here")
    assert "install a C compiler and Python's headers" in warning
    assert warning.endswith("Contention is measured with 'poisson'")


@with_observer
@pytest.mark.parametrize(
    ("function", "doubt"), [("find", "it is another table"), ("prove", "a thread that runs was not seen")]
)
def test_in_any_doubt_another_one_is_taken(run: Run, function: str, doubt: str) -> None:
    done = run(f"from otel_gil import _recorder; _recorder.{function} = lambda *_: {doubt!r}\n" + AUTO)
    warning, sampler = done.stdout.splitlines()
    assert sampler == "PoissonSampler"
    assert doubt in warning


@with_observer
def test_it_proves_itself() -> None:
    from otel_gil import _recorder

    native = threading.get_native_id()
    assert observer._be_seen() is None
    assert "functions" in (_recorder.prove("another", "_be_seen", native) or "")
    assert "functions" in (_recorder.prove("test_it_proves_itself", "another", native) or "")


@with_observer
def test_names_that_are_no_utf_8(run: Run, tmp_path: Path) -> None:
    """In arguments, in sys.path and of the folder of temporary files."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(folder).mkdir()
    Path(folder, "spinning.py").write_text(
        "import time\ndef spin():\n    end = time.time() + 1\n    while time.time() < end: pass\n"
    )
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from spinning import spin
from otel_gil._samplers.observer import *
sampler = ObserverSampler(.01, 10.0, Observing(), lambda waits: None, lambda *_: None)
sampler.start()
spin()
print([time.function for time in sampler.read().held])
"""
    done = run(code, folder, TMPDIR=folder)
    assert (done.stdout, done.stderr) == ("['spinning.spin']\n", "")


FORBIDDEN = """
import ctypes, platform, struct, sys
numbers = {"x86_64": {"process_vm_readv": 310, "pread64": 17}, "aarch64": {"process_vm_readv": 270, "pread64": 67}}
# Seccomp: these calls are errors, as in some containers.
forbidden = [numbers[platform.machine()][name] for name in sys.argv[1:]]
code = [(0x20, 0, 0, 0)]
for left, number in zip(range(len(forbidden) - 1, -1, -1), forbidden):
    code.append((0x15, left, 0 if left else 1, number))
code += [(0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(filters))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0
"""


@with_observer
def test_where_the_call_to_read_memory_is_forbidden(run: Run) -> None:
    """The other way is taken: who holds is known all the same."""
    code = """
import time
from otel_gil._samplers.observer import *
sampler = ObserverSampler(.01, 10.0, Observing(), lambda waits: None, lambda *_: None)
assert unavailable() is None, unavailable()
sampler.start()
end = time.time() + 1
while time.time() < end: pass
print([time.function for time in sampler.read().held])
"""
    done = run(FORBIDDEN + code, "process_vm_readv")
    assert (done.stdout, done.stderr) == ("['<string>.<module>']\n", "")


@with_observer
def test_where_all_ways_are_forbidden(run: Run) -> None:
    done = run(FORBIDDEN + AUTO, "process_vm_readv", "pread64")
    assert "not allowed to read its own memory" in done.stdout
    assert done.stdout.endswith("PoissonSampler\n")
