"""The recorder in a Python process that does all that is hard on it, for so many seconds: `stress.py EXTENSION FORKER SECONDS`.

For a build of the extension with a sanitizer, whose library is preloaded: it finds what nobody here looks for. What is
looked for here is that numbers make sense, that no file of the application is changed, and that nothing hangs.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import importlib.util
import os
import resource
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

_SRC = Path(__file__).parents[2] / "src"

_GIL_HELD = ctypes.PyDLL(None)
"""Its functions keep the GIL."""

HANGS = 30
"""Seconds that it may take longer than it is asked to."""

CHILD = 30
"""Seconds within which a child must have ended."""


def load(extension: str) -> Any:
    """This build of the recorder, in place of the one that is installed."""
    spec = importlib.util.spec_from_file_location("otel_gil._recorder", extension)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    from otel_gil._samplers import observer

    assert vars(observer)["_recorder"] is module, "the one that is installed came first"
    return module


class Stress:
    """Runs functions again and again, each in a thread, until it is time to end or one of them fails."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.failed = False
        self.turns: dict[str, int] = {}

    @property
    def goes_on(self) -> bool:
        return not self.failed and time.monotonic() < self._end

    def run(self, works: list[Callable[[], None]]) -> None:
        threads = [threading.Thread(target=self._repeat, args=(work,), name=work.__name__) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _repeat(self, work: Callable[[], None]) -> None:
        turns = 0
        while self.goes_on:
            try:
                work()
            except BaseException:
                self.failed = True
                traceback.print_exc()
            turns += 1
        self.turns[work.__name__] = turns


# What applications do.


def burn() -> None:
    sum(i * i for i in range(20_000))


def come_and_go() -> None:
    threads = [threading.Thread(target=burn, name=f"short-{i}") for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _numbers(count: int) -> Generator[int, None, None]:
    for i in range(count):
        yield i
        if i == 100:
            yield from _numbers(50)


def generate() -> None:
    for _ in range(20):
        sum(_numbers(500))
    unfinished = _numbers(500)
    next(unfinished)


def recurse() -> None:
    def down(depth: int) -> int:
        return 0 if not depth else 1 + down(depth - 1)

    for depth in (10, 70, 450, 900):
        down(depth)


def raise_errors() -> None:
    for i in range(300):
        try:
            try:
                raise ValueError(i)
            except ValueError as error:
                raise KeyError(i) from error
        except KeyError:
            pass


_generated = 0


def execute() -> None:
    global _generated
    for _ in range(20):
        _generated += 1
        code = f"def generated_{_generated}(n):\n    return sum(i for i in range(n))\ngenerated_{_generated}(3000)\n"
        exec(compile(code, f"<generated {_generated % 700} \u00e4\u4e2d\U0001f600>", "exec"), {})


def collect() -> None:
    cycles = [[] for _ in range(1000)]  # type: list[list[Any]]
    for cycle in cycles:
        cycle.append(cycle)
    del cycles
    gc.collect()
    time.sleep(0.01)


def hold() -> None:
    _GIL_HELD.usleep(60_000)  # longer than the threshold of a stall
    time.sleep(0.1)


def release() -> None:
    for _ in range(200):
        time.sleep(0)


# Calls of the recorder, from several threads at once.


class Calls:
    """Everything that Python calls, by more threads than the probe."""

    def __init__(self, recorder: ModuleType, lock: threading.RLock) -> None:
        from otel_gil._records import record

        self._recorder = recorder
        self._record = record
        self._lock = lock
        self._observed = 0.0

    def look_in(self) -> None:
        record = self._record
        data = self._recorder.state()
        state = record.State._make(record.STATE.unpack_from(data))
        assert state.length == len(data) <= record.STATE_SIZE
        assert len(data) == record.ROWS + (state.held_rows + state.wait_rows) * record.ROW.size
        assert 0 <= state.blocked_weight <= 1 + 1e-9, state
        assert 0 <= state.contended <= state.blocked + 1e-6, state
        assert state.free >= 0 and state.waited >= 0, state
        rows = list(record.ROW.iter_unpack(data[record.ROWS :]))
        for row in rows:
            assert row[1] < 256 and row[2] < 512 and row[6] >= 0 and row[7] >= 0, row
        assert sum(row[6] for row in rows[: state.held_rows]) <= state.blocked + 1e-6, state
        for _, name, function, *_ in rows:
            self._recorder.read(record.NAMES + name * record.NAME_SIZE, record.NAME_SIZE)
            self._recorder.read(record.FUNCTIONS + function * record.FUNCTION_SIZE, record.FUNCTION_SIZE)

    def look_on(self) -> None:
        self._recorder.state()
        self._recorder.path()
        self._recorder.running()
        time.sleep(0)

    def name_threads(self) -> None:
        for slot, identifier, native in self._recorder.unnamed():
            self._recorder.name(slot, identifier, native, "" if slot % 5 == 0 else f"named-{slot} \u4e2d" * (slot % 40))
        time.sleep(0.001)

    def take_stalls(self) -> None:
        self._recorder.take_stall()
        self._recorder.probe(time.monotonic() + 0.005)

    def refuse_nonsense(self) -> None:
        for arguments in ((-1, 1), (0, -1), (1 << 62, 1), (1, 1 << 62)):
            try:
                self._recorder.read(*arguments)
            except ValueError:
                continue
            raise AssertionError(arguments)
        self._recorder.name(-1, 0, 0, "nobody")
        self._recorder.name(1 << 20, 0, 0, "nobody")
        self._recorder.line(os.urandom(64), 1, 10)
        time.sleep(0.01)


class Application:
    """Starts and stops the sampler, forks, and closes files."""

    def __init__(self, recorder: ModuleType, forker: str) -> None:
        from otel_gil._samplers.observer import Observing, ObserverSampler

        self.lock = threading.RLock()
        self._recorder = recorder
        self._forker = ctypes.CDLL(forker)
        self._make: Callable[[], ObserverSampler] = lambda: ObserverSampler(
            0.002, 2.0, Observing("function", 0.02, stderr=True), lambda waits: list(waits).clear(), self._told
        )
        self.stalls = 0
        self._sampler = self._make()
        self._sampler.start()

    def _told(self, *_: object) -> None:
        self.stalls += 1

    def read(self) -> None:
        with self.lock:
            snapshot = self._sampler.read()
        if snapshot:
            assert snapshot.blocked >= 0 and snapshot.free >= 0, snapshot
            held = sum(time.seconds for time in snapshot.held)
            assert held <= snapshot.blocked + 1e-3, (held, snapshot.blocked)
        time.sleep(0.01)

    def restart(self) -> None:
        time.sleep(0.3)
        with self.lock:
            before = self._sampler.read()
            self._sampler.stop()
            self._sampler = self._make()
            self._sampler.start(before)

    def fork(self) -> None:
        time.sleep(0.02)
        # Without the lock: whatever another thread does just then, a fork must not wait for it for ever.
        child = os.fork()
        if not child:
            _end_child(self._in_child)
        _wait_for(child)

    def fork_in_c(self) -> None:
        time.sleep(0.05)
        _wait_for(self._forker.fork_for(30))

    def close_files(self) -> None:
        """As a daemon does: in a child, whose recorder writes its record meanwhile."""
        time.sleep(0.1)
        child = os.fork()
        if not child:
            _end_child(self._close_in_child)
        _wait_for(child)

    def limit_files(self) -> None:
        time.sleep(0.1)
        child = os.fork()
        if not child:
            _end_child(self._limit_in_child)
        _wait_for(child)

    def _in_child(self) -> None:
        for _ in range(5):
            burn()
            self._recorder.state()
        if child := os.fork():
            _wait_for(child)
        else:
            _end_child(burn)

    def _close_in_child(self) -> None:
        until = time.monotonic() + 1
        while self._recorder.running() and not self._recorder.path() and time.monotonic() < until:
            burn()
        os.closerange(3, 4096)
        victim = os.open(f"/dev/shm/otel-gil-stress-{os.getpid()}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(f"/dev/shm/otel-gil-stress-{os.getpid()}")
        for number in range(3, 540):
            if number != victim:
                os.dup2(victim, number)
        for _ in range(20):
            burn()
        assert os.fstat(victim).st_size == 0, "the record was written into a file of the application's"

    def _limit_in_child(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        for _ in range(20):
            burn()
            self._recorder.state()

    def end(self) -> None:
        path = self._recorder.path()
        self._sampler.stop()
        assert not self._recorder.running()
        assert not path or not Path(path).exists(), f"{path} is still there"


def _end_child(work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _wait_for(child: int) -> None:
    until = time.monotonic() + CHILD
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert not status, f"a child ended with status {status:#x}"
            return
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("a child hung")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extension")
    parser.add_argument("forker")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--no-forks", action="store_true", help="for sanitizers that do without")
    arguments = parser.parse_args()
    sys.path.insert(0, str(_SRC))
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    faulthandler.dump_traceback_later(arguments.seconds + HANGS, exit=True)
    recorder = load(arguments.extension)
    from otel_gil._samplers import observer

    reason = observer.unavailable()
    assert reason is None, reason
    application = Application(recorder, arguments.forker)
    calls = Calls(recorder, application.lock)
    works = [
        *(burn, come_and_go, generate, recurse, raise_errors, execute, collect, hold, release),
        *(calls.look_in, calls.look_on, calls.name_threads, calls.take_stalls, calls.refuse_nonsense),
        *(application.read, application.restart),
    ]
    if not arguments.no_forks:
        works += [application.fork, application.fork_in_c, application.close_files, application.limit_files]
    stress = Stress(arguments.seconds)
    stress.run(works)
    application.end()
    print(", ".join(f"{name} {turns}" for name, turns in sorted(stress.turns.items())), f"stalls {application.stalls}")
    sys.exit(1 if stress.failed else 0)


if __name__ == "__main__":
    main()
