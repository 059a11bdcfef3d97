"""Debuggers, profilers and whatever else looks into a process: with otel-gil as without, but for the probe's thread."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from marks import with_observer

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = with_observer

PRELUDE = """
import asyncio, ctypes, faulthandler, json, os, sys, threading, time, tracemalloc, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # CPython's own, of any fork in a process with threads
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_gil import GilInstrumentor, _recorder
sys.path.insert(0, "tests")
from measurements import measured
hold = ctypes.PyDLL(None).usleep
reader = InMemoryMetricReader()
provider = MeterProvider([reader])

def instrument():
    GilInstrumentor().instrument(meter_provider=provider, sampler="observer")
    assert _recorder.running()

def in_threads(*works):
    for work in works:
        threading.Thread(target=work, name=work.__name__, daemon=True).start()
"""

THREADS = """
def spins():
    i = 0
    while True:
        i += 1

def waits():
    threading.Event().wait()

in_threads(spins, waits)
time.sleep(.2)
print("ready", flush=True)
while True: time.sleep(.01)
"""

PROBE = re.compile("_run_probe")


def succeed(run: Run, code: str, **environ: str) -> str:
    done = run(PRELUDE + code, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@contextmanager
def program(code: str, measured: bool) -> Iterator[int]:
    """The process identifier of a program that is ready."""
    command = [sys.executable, "-c", PRELUDE + ("instrument()" if measured else "") + code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process.pid
            assert process.poll() is None
        finally:
            process.kill()


def look(code: str, tool: Callable[[int], list[str]], typed: str = "") -> tuple[str, str]:
    """What a tool writes of a program without otel-gil, and with it."""
    written = []
    for measured in (False, True):
        with program(code, measured) as pid:
            done = subprocess.run(tool(pid), input=typed, capture_output=True, text=True, timeout=60, check=False)
        if not measured and done.returncode:
            pytest.skip(f"{tool(0)} can't look into other processes here: {done.stdout}{done.stderr}")
        assert done.returncode == 0, (done.stdout, done.stderr)
        written.append(re.sub(r"0x[0-9a-f]+", "0x", done.stdout))
    return written[0], written[1]


def stacks(dump: str, header: str) -> list[list[str]]:
    """The functions of each thread in a dump, without those of the probe."""
    threads = [re.findall(r"^ +(?:File .* in )?([\w.<>]+)", part, re.M) for part in re.split(header, dump)[1:]]
    return sorted(functions for functions in threads if not PROBE.search(" ".join(functions)))


def test_current_frames_at_any_moment(run: Run) -> None:
    """As profilers do, some 1,000 times a second, while it starts and stops, and when the process ends."""
    code = """
looks = 0
def looks_around():
    global looks
    while True:
        for frame in sys._current_frames().values():
            while frame:
                frame.f_lineno
                frame = frame.f_back
        looks += 1
        time.sleep(.001)

def begins_threads():
    while True:
        thread = threading.Thread(target=lambda: sum(range(1000)))
        thread.start()
        thread.join()

in_threads(looks_around, begins_threads)
for _ in range(25):
    instrument()
    time.sleep(.03)
    GilInstrumentor().uninstrument()
instrument()
print(looks > 25)
"""
    assert succeed(run, code) == "True\n"


def test_tracemalloc(run: Run) -> None:
    """It changes CPython's allocators. Freed memory is overwritten, so what is read too late would be a wrong name."""
    code = """
def loops():
    while not ended:
        sum(range(1000))

def parses():
    text = json.dumps([{"a": i, "b": [1, 2, 3]} for i in range(500)])
    while not ended:
        json.loads(text)

def executes():
    i = 0
    while not ended:
        i += 1
        names = {}
        exec(f"def executed_{i % 1000}(): sum(range(2000))", names)
        names[f"executed_{i % 1000}"]()

ended = False
sys.setswitchinterval(.0005)
instrument()
in_threads(loops, parses, executes)
for i in range(75):
    tracemalloc.start(25 if i % 2 else 1)
    time.sleep(.02)
    tracemalloc.stop()
    time.sleep(.02)
held = measured(reader).held
ended = True
print(json.dumps(sorted((*who, seconds) for who, seconds in held.items())))
"""
    own = {
        "loops": r".*\bloops",
        "parses": r".*\bparses|json\..*",
        "executes": r".*\bexecute(s|d_\d+)",
        "MainThread": r".*",
        "_other": r".*",
    }
    held = eval(succeed(run, code, PYTHONMALLOC="debug"))
    assert not [(name, function) for name, function, _ in held if not re.fullmatch(own.get(name, "(?!)"), function)]
    names = {name for name, _, seconds in held if seconds > 0.1}
    assert {"loops", "parses"} <= names, held


def test_a_fork_without_a_file_descriptor_to_spare(run: Run) -> None:
    """The child is measured, in a record that is no file."""
    code = """
import resource
instrument()
time.sleep(.1)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        os.dup(0)
except OSError:
    pass
for _ in range(5):
    pid = os.fork()
    if not pid:
        before = measured(reader).blocked
        hold(300_000)
        seen = measured(reader).blocked - before
        os._exit(0 if _recorder.running() and not _recorder.path() and seen > .2 else 1)
    assert os.waitpid(pid, 0)[1] == 0
"""
    succeed(run, code)


def test_py_spy() -> None:
    """It finds the interpreter, its threads and their names."""
    py_spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if not py_spy:
        pytest.skip("py-spy is not installed")
    without, dump = look(THREADS, lambda pid: [str(py_spy), "dump", "--pid", str(pid)])
    assert stacks(dump, "Thread ") == stacks(without, "Thread ")
    assert len(stacks(dump, "Thread ")) == 3
    assert len(PROBE.findall(dump)) == 1
    assert re.findall('"(.*)"', dump) == re.findall('"(.*)"', without)


def test_faulthandler(run: Run) -> None:
    """Its dump of all threads has the probe's in addition."""
    code = """
def waits():
    threading.Event().wait()

in_threads(waits)
time.sleep(.1)
faulthandler.dump_traceback_later(.2, file=sys.stdout)
time.sleep(.6)
"""
    without, dump = succeed(run, code), succeed(run, f"instrument(){code}")
    assert stacks(dump, "(?m)^Thread ") == stacks(without, "(?m)^Thread ")
    assert len(stacks(dump, "(?m)^Thread ")) == 2
    assert len(PROBE.findall(dump)) == 1


def test_trace_and_profile_functions_of_new_threads(run: Run) -> None:
    """As of coverage and cProfile: they don't get to see the probe, which is none of `threading`'s."""
    code = """
files = set()
def trace(frame, event, argument):
    files.add(os.path.basename(frame.f_code.co_filename))
    return trace

threading.settrace(trace)
threading.setprofile(trace)
instrument()
thread = threading.Thread(target=lambda: hold(100_000))
thread.start()
thread.join()
time.sleep(.7)
print(sorted(files))
"""
    assert succeed(run, code) == "['<string>', 'threading.py']\n"


remote = pytest.mark.skipif(sys.version_info < (3, 14), reason="CPython 3.14 brings it")


@remote
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_asyncio_tools(command: str) -> None:
    code = """
async def waits(event):
    await event.wait()

async def gathers():
    event = asyncio.Event()
    tasks = asyncio.gather(waits(event), waits(event))
    asyncio.get_running_loop().call_later(.2, print, "ready")
    await tasks

def spins():
    i = 0
    while True:
        i += 1

sys.stdout.reconfigure(line_buffering=True)
in_threads(spins)
asyncio.run(gathers())
"""
    without, told = look(code, lambda pid: [sys.executable, "-m", "asyncio", command, str(pid)])
    assert told.count("waits") >= 2
    # A process and its threads have other numbers, and columns other widths.
    assert re.sub(r"(?m)^\d+|[ -]+", " ", told) == re.sub(r"(?m)^\d+|[ -]+", " ", without)


@remote
def test_remote_debugging(tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]) -> None:
    """`pdb -p` and `sys.remote_exec` are served by the main thread, as ever."""
    without, told = look(THREADS, lambda pid: [sys.executable, "-m", "pdb", "-p", str(pid)], "p 6 * 7\nwhere\nq\n")
    assert "(Pdb) 42\n" in told
    # Where it was, but for the line.
    assert re.sub(r"\(\d+\)", "", told) == re.sub(r"\(\d+\)", "", without)

    written, script = tmp_path / "written", tmp_path / "script.py"
    script.write_text(f"import threading\nopen({str(written)!r}, 'a').write(threading.current_thread().name + ' ')\n")
    with program(THREADS, measured=True) as pid:
        for times in range(1, 6):
            sys.remote_exec(pid, script)  # type: ignore[attr-defined,unused-ignore]
            eventually(lambda times=times: written.exists() and len(written.read_text().split()) == times)  # type: ignore[misc]
        time.sleep(0.3)
    assert set(written.read_text().split()) == {"MainThread"}
