from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marks import MAIN, with_observer

from otel_gil._cli import top as _top
from otel_gil._cli.top import (
    START,
    Line,
    Reading,
    body,
    clean,
    cut,
    reading_of,
    reason,
    rows,
    screen,
    since,
    stall,
    status,
    table,
)
from otel_gil._snapshot import Snapshot, Stall, ThreadTime

# The command, that reads what it would of a program of which one second passed from one reading to the next. The GIL is
# held from the third on. With so many readings as `answers` the program ends; one more is made after that.
READINGS = """
import os, sys, tempfile
from pathlib import Path
from types import SimpleNamespace
from otel_gil._cli import top
from otel_gil._snapshot import Snapshot, Stall, ThreadTime

folder = tempfile.TemporaryDirectory()
os.environ["FOLDER"] = folder.name

class Reader:
    count = 0

    def __init__(self, record, *_):
        self.pid = record.pid

    def read(self, now):
        self.count += 1
        n = self.count
        if n == answers:
            Path(folder.name, "end").touch()
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        held = (
            ThreadTime("worker_1", "app.tasks.Pool.run", 0.2 * n),
            ThreadTime("MainThread", "json.decoder.JSONDecoder.raw_decode", 0.6 * n),
        )
        stall = Stall(1.6, "MainThread", 1, "json.loads") if n > 2 else None
        return Snapshot(0.5, 0.8 * n, 0.2 * n, 0.8 * n, 2, 7.5, 1234 * n, int(n > 2), stall, held)

def find(pid):
    head = SimpleNamespace(window=10.0)
    record = SimpleNamespace(pid=pid, alive=True, head=head, paths=tuple, close=lambda: None)
    return record if Path(folder.name, "ready").exists() else None

top.RecordReader, top._find = Reader, find
"""

# That program: says something, and ends as its argument asks for.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path

end = sys.argv[1]
folder = Path(os.environ["FOLDER"])
if end == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in range(30):
    print("\\x1b[32mline", line, "\\x1b[m", flush=True)
print("last words", file=sys.stderr, flush=True)
(folder / "ready").touch()
while not (folder / "end").exists():
    time.sleep(0.02)
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(input() if end == "input" else end))
"""

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"

MAIN_THREAD = ("MainThread", "json.decoder.JSONDecoder.raw_decode")
WORKER = ("worker_1", "app.tasks.Pool.run")

BEFORE = Reading(10.0, 10.0, 0.0, 1000.0, 0.0, 0.0, ("", ""), {MAIN_THREAD: 6.0, WORKER: 4.0})
AFTER = Reading(10.8, 10.2, 2.0, 2234.0, 1.0, 1.6, ("MainThread", "json.loads"), {WORKER: 4.2, MAIN_THREAD: 6.6})


def texts(lines: Sequence[Line]) -> list[str]:
    return [line.text for line in lines]


def size(columns: int, lines: int) -> os.terminal_size:
    return os.terminal_size((columns, lines))


def test_reading_of() -> None:
    held = (ThreadTime('Main "1"', "json.loads", 3.1), ThreadTime("_other", "", 38.1))
    found = Snapshot(0.98, 41.2, 18.9, held=held)
    times = {('Main "1"', "json.loads"): 3.1, ("_other", ""): 38.1}
    assert reading_of(found) == Reading(41.2, 18.9, None, None, 0.0, 0.0, ("", ""), times)
    found = found._replace(contended=30.0, waiting=2, wait_time=7.5, switches=1234, stalls=1)
    assert reading_of(found) == Reading(41.2, 18.9, 2.0, 1234.0, 1.0, 0.0, ("", ""), times)
    found = found._replace(stall=Stall(3.2, "worker", 7, "app.f"))
    assert reading_of(found) == Reading(41.2, 18.9, 2.0, 1234.0, 1.0, 3.2, ("worker", "app.f"), times)


def test_since() -> None:
    spent = since(BEFORE, AFTER)
    assert (spent.blocked, spent.free, spent.switches) == pytest.approx((0.8, 0.2, 1234.0))
    assert spent.held == pytest.approx({MAIN_THREAD: 0.6, WORKER: 0.2})
    assert (spent.waiting, spent.stalls, spent.stall) == (2.0, 1.0, 1.6)
    assert since(START, AFTER) == AFTER


def test_since_a_start_anew() -> None:
    anew = Reading(1.0, 1.0, 0.0, 3.0, 0.0, 0.0, ("", ""), {WORKER: 1.0})
    assert since(BEFORE, anew) == anew


def test_shares_are_never_above_the_contention() -> None:
    """Seconds that are told late come on top of those of the interval."""
    late = AFTER._replace(held={MAIN_THREAD: 6.0 + 1.2, WORKER: 4.0 + 0.4})
    assert [row.share for row in rows(BEFORE, late)] == pytest.approx([0.6, 0.2])


def test_rows_are_sorted_by_share() -> None:
    first, second = rows(BEFORE, AFTER)
    assert (first.share, second.share) == pytest.approx((0.6, 0.2))
    assert (first[1:], second[1:]) == ((6.6, *MAIN_THREAD), (4.2, *WORKER))
    late = AFTER._replace(held={MAIN_THREAD: 6.0, WORKER: 4.8})
    assert [row.thread for row in rows(BEFORE, late)] == ["worker_1", "MainThread"]
    assert [row.share for row in rows(AFTER, AFTER)] == [0.0, 0.0]


def test_status() -> None:
    contention, numbers = status(BEFORE, AFTER, 40)
    assert contention == "contention   80% [||||||||||||||||    ]"
    assert numbers == "waiting 2   switches 1234/s   stalls 1"
    assert status(BEFORE, AFTER._replace(waiting=None, switches=None), 80)[1] == "stalls 1"
    assert status(AFTER, AFTER, 30) == ["contention     - [          ]", "waiting 2   stalls 1"]


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (AFTER, "GIL held for 1.6 s by MainThread in json.loads"),
        (AFTER._replace(holder=("t\x1b[m", "")), "GIL held for 1.6 s by t"),
        (AFTER._replace(stall=0.0), ""),
    ],
)
def test_stall(after: Reading, words: str) -> None:
    assert stall(after) == words


def test_table() -> None:
    assert table(rows(BEFORE, AFTER), 54) == [
        "   HELD   TOTAL s  THREAD      FUNCTION",
        "  60.0%      6.60  MainThread  …JSONDecoder.raw_decode",
        "  20.0%      4.20  worker_1    app.tasks.Pool.run",
    ]


def test_cut_and_clean() -> None:
    assert cut("json.decoder.raw_decode", 11) == "…raw_decode"
    assert cut("loads", 5) == "loads"
    assert [cut("loads", width) for width in (2, 1, 0, -1)] == ["…s", "…", "", ""]
    assert clean("\x1b[1;31mred\x1b[m \x1b]0;title\x07\x1b(Bafter\tthis") == "red after       this"
    assert clean("10 %\r20 %\r") == "20 %"
    assert clean("a\x00b\x7f\x9b31mc") == "a b  31mc"


@given(
    st.text(max_size=100),
    st.dictionaries(st.tuples(st.text(max_size=50), st.text(max_size=50)), st.floats(0, 1e9), max_size=60),
    st.floats(0, 1e9),
    st.lists(st.text(max_size=100), max_size=60),
    st.integers(1, 200),
    st.integers(1, 60),
)
def test_it_fits(
    command: str, held: dict[tuple[str, str], float], stall: float, output: list[str], columns: int, height: int
) -> None:
    after = Reading(sum(held.values()), 1.0, 3.0, 1e9, 7.0, stall, (command, command), held)
    shown = body(START, after, "", columns)
    lines = texts(screen((command, "pid 1  0:00:01"), shown, output, size(columns, height)))
    assert len(lines) <= height
    assert all(len(line) <= columns for line in lines)
    assert all(line.isprintable() for line in lines)


def test_room_is_shared() -> None:
    title = ("python app.py", "pid 1  0:00:01")
    many = {("t", f"f{index}"): 1.0 for index in range(50)}
    shown = body(START, AFTER._replace(held=many), "", 80)
    output = [f"line {index}" for index in range(50)]

    def counted(shown: list[Line], output: list[str]) -> tuple[int, int, int]:
        lines = texts(screen(title, shown, output, size(80, 24)))
        return len(lines), sum("%" in line for line in lines) - 1, sum(line.startswith("line ") for line in lines)

    assert counted(shown, []) == (24, 19, 0)
    assert counted(shown, output) == (24, 11, 7)
    assert counted(shown, output[:2]) == (24, 16, 2)
    assert counted(body(BEFORE, AFTER, "", 80), output) == (24, 2, 16)
    assert texts(screen(title, shown, output, size(80, 24)))[-1] == "line 49"


def test_title() -> None:
    (line,) = screen(("python " + "x" * 100, "pid 1  0:00:01"), [], [], size(40, 24))
    assert line.text == "python " + "x" * 16 + "…" + "  " + "pid 1  0:00:01"


def test_reason() -> None:
    why = "OTEL_PYTHON_GIL_SAMPLER='observer' is not available: it needs Linux or macOS, not win32; using auto"
    output = ["hello", '  File "/x/otel_gil/__init__.py"', why, "The GIL"]
    assert texts(reason(output, 200)) == [why]
    assert " ".join(texts(reason(output, 40))) == why
    assert "otel-gil doctor" in texts(reason(["hello"], 200))[0]
    missing = "ModuleNotFoundError: No module named 'opentelemetry'"
    assert texts(reason(["Error in sitecustomize; set PYTHONVERBOSE for traceback:", missing], 80)) == [missing]


def test_children_are_named() -> None:
    assert _top.not_shown([]) == ""
    assert _top.not_shown([7]).endswith("Not shown: its child processes that run Python, pid 7")
    assert _top.not_shown(range(1, 12)).endswith("pid 1, 2, 3, 4, 5, 6, 7, 8, …")
    shown = [line.text for line in _top.body(_top.START, _top.START, "", 60, [7])]
    assert shown[3:5] == ["This is the GIL of one process. Not shown: its child", "processes that run Python, pid 7"]


@with_observer
def test_a_program_with_workers() -> None:
    code = (
        "import multiprocessing, time; multiprocessing.get_context('fork').Process(target=time.sleep, args=[4]).start()"
    )
    done = piped(top(sys.executable, "-W", "ignore", "-c", code))
    assert done.returncode == 0
    assert re.search(r"Not shown: its child processes that run Python,\spid \d+\n", done.stdout), done.stdout
    assert "Not shown" in done.stdout.partition("exit code 0")[2]


BUSY = """
import ctypes, threading, time

def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
"""


@with_observer
def test_who_holds_the_gil_of_a_real_program(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        f"""{BUSY}
def stand_still():
    ctypes.PyDLL(None).usleep(3_500_000)

worker = threading.Thread(target=busy, args=[3], name="worker")
worker.start()
worker.join()
stand_still()
time.sleep(1)  # a program that ends at once says nothing of it any more
raise SystemExit(3)
"""
    )
    done = piped(top(sys.executable, str(app)))
    assert done.returncode == 3
    live, _, summary = done.stdout.rpartition("exit code 3")
    shares = [float(share) for share in re.findall(r"^ *([\d.]+)% +[\d.]+  worker +app\.busy$", live, re.MULTILINE)]
    assert max(shares) > 60, live
    assert re.search(r"^GIL held for \d\.\d s by MainThread in app\.stand_still$", live, re.MULTILINE), live
    assert re.search(r"waiting \d+   switches \d+/s   stalls 1$", live, re.MULTILINE), live
    held = {
        (thread, function): float(seconds)
        for seconds, thread, function in re.findall(r"^ *[\d.]+% +([\d.]+)  (\w+) +(\S+)$", summary, re.MULTILINE)
    }
    # On a busy machine the recorder is late at times, and what is long ago was not observed.
    assert 1.5 < held["MainThread", "app.stand_still"] < 4.5, summary
    assert 1.5 < held["worker", "app.busy"] < 4.0, summary
    assert "   stalls 1\n" in summary
    # The program has no other place for its warnings.
    line = app.read_text().split("\n").index("    ctypes.PyDLL(None).usleep(3_500_000)") + 1
    said = rf"^The GIL was held for 3\.\d s by MainThread in app\.stand_still \(line {line} of {app}\)$"
    assert re.search(said, done.stderr, re.MULTILINE), done.stderr


@with_observer
def test_a_program_that_starts_itself_anew(tmp_path: Path) -> None:
    """As servers do that reload their code: it is the same process, with another record."""
    app = tmp_path / "app.py"
    app.write_text(
        f"""{BUSY}
import os, sys
from otel_gil._cli.instrumented import instrument

def first():
    busy(2)

def second():
    ctypes.PyDLL(None).usleep(800_000)

if len(sys.argv) == 1:
    first()
    command = instrument([sys.executable, __file__, "again"])
    os.execv(command[0], command)
for _ in range(4):
    second()
    time.sleep(0.01)
"""
    )
    done = piped(top(sys.executable, str(app)))
    assert done.returncode == 0
    live, _, summary = done.stdout.rpartition("exit code 0")
    assert re.search(r"  MainThread +app\.busy$", live, re.MULTILINE), live
    assert re.search(r"  MainThread +app\.second$", summary, re.MULTILINE), summary
    assert "app.busy" not in summary


@with_observer
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_known_last_of_a_killed_program(number: int, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(f"{BUSY}\nimport os\nbusy(3)\nos.kill(os.getpid(), {int(number)})\n")
    done = piped(top(sys.executable, str(app)))
    assert done.returncode == 128 + number
    summary = done.stdout.rpartition(f"exit code {128 + number}")[2]
    held = re.search(r"^ *[\d.]+% +([\d.]+)  MainThread +app\.busy$", summary, re.MULTILINE)
    assert held and 1.5 < float(held[1]) < 3.5, summary


def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_top, "_KEPT", 100_000)
    with tempfile.TemporaryFile() as output:
        fcntl.fcntl(output, fcntl.F_SETFL, os.O_APPEND)

        def write(text: str) -> None:
            os.write(output.fileno(), text.encode())

        assert _top._last_lines(output) == []
        write("first\n" + "x" * 80_000)
        assert _top._first_lines(output)[0] == "first"
        write("\nlast\n")
        assert _top._last_lines(output)[-1] == "last"
        assert os.fstat(output.fileno()).st_size > 80_000
        write("y" * 20_000 + "\nlater\n")
        assert _top._last_lines(output)[-1] == "later"
        assert os.fstat(output.fileno()).st_size == 0x10000
        write("latest")
        assert _top._last_lines(output)[-2:] == ["later", "latest"]


def test_the_terminal_is_restored(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), _top._full_screen():
        1 / 0
    assert capsys.readouterr().out == ENTER + LEAVE


def test_nothing_is_left_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    def fail(readings: object, command: str, pid: int, *_: object) -> None:
        pids.append(pid)
        raise ZeroDivisionError

    monkeypatch.setattr(_top, "_show", fail)
    previous = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError):
        _top.run(["sleep", "60"], 1.0)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert signal.getsignal(signal.SIGTERM) is previous


def environment(**variables: str) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OTEL_") and name not in ("COLUMNS", "LINES", "NO_COLOR")
    }
    # What is the application's must not disturb.
    return inherited | {"OTEL_METRICS_EXPORTER": "pigeon", "TERM": "xterm"} | variables


def top(*program: str) -> list[str]:
    return [sys.executable, "-c", MAIN, "top", "--", *program]


def fake(answers: int, end: str) -> list[str]:
    code = f"answers = {answers}\n{READINGS}\n{MAIN}"
    return [sys.executable, "-c", code, "top", "--", sys.executable, "-c", PROGRAM, end]


class Terminal:
    """A program, the terminal of which has 24 lines of 80 columns."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.output = ""
        self._master = master
        self._end = time.monotonic() + 60

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read_until(self, text: str) -> None:
        """Read until there is such a text in what was not read before."""
        known = len(self.output)
        while text not in self.output[known:]:
            assert self._read(), self.output

    def finish(self) -> int:
        while self._read():
            pass
        return self.process.wait(20)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, self._end - time.monotonic()))
        assert ready, self.output
        try:
            read = os.read(self._master, 0x10000)
        except OSError:  # nobody has the terminal any more
            read = b""
        self.output += read.decode(errors="replace")
        return bool(read)


@contextmanager
def on_a_terminal(command: list[str]) -> Iterator[Terminal]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            os.close(master)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[mK]|\r", "", text)


def test_terminal() -> None:
    with on_a_terminal(fake(3, "3")) as terminal:
        code = terminal.finish()
    assert code == 3
    output = terminal.output
    assert (output.count(ENTER), output.count(LEAVE), output.index(ENTER)) == (1, 1, 0)
    live, after = output.removeprefix(ENTER).split(LEAVE)
    frames = [plain(frame) for frame in live.split("\x1b[H") if frame]
    for frame in frames:
        lines = frame.split("\n")
        assert len(lines) == 24
        assert all(len(line) <= 80 for line in lines)
        assert "\x1b" not in frame
    assert "waiting for the observer …" in frames[0] or "contention" in frames[0]
    last = frames[-1].split("\n")
    # How much of the command is left depends on where the Python is.
    assert re.fullmatch(r".*…  pid \d+  0:00:\d\d", last[0])
    assert last[1] == f"contention   80% [{'|' * 40:<50}]"
    assert last[2] == "waiting 2   switches 1234/s   stalls 1"
    assert last[3] == "GIL held for 1.6 s by MainThread in json.loads"
    assert last[4] == "   HELD   TOTAL s  THREAD      FUNCTION"
    assert last[5] == "  60.0%      2.40  MainThread  json.decoder.JSONDecoder.raw_decode"
    assert last[6] == "  20.0%      0.80  worker_1    app.tasks.Pool.run"
    assert last[7] == ""
    assert [line.rstrip() for line in last[8:]] == [*(f"line {index}" for index in range(15, 30)), "last words"]
    assert "\x1b[31;7mGIL held for 1.6 s by MainThread in json.loads\x1b[m" in live
    assert "\x1b[7m   HELD" in live
    summary, tail = plain(after).split("\nline 11")
    assert re.fullmatch(r".*…  exit code 3  0:00:\d\d", summary.split("\n")[0])
    assert "switches 1234/s   stalls 1\n" in summary
    assert summary.endswith("  60.0%      2.40  MainThread  json.decoder.JSONDecoder.raw_decode\n"
                            "  20.0%      0.80  worker_1    app.tasks.Pool.run")  # fmt: skip
    assert "waiting" not in summary and "GIL held" not in summary
    assert "\x1b" not in tail
    assert tail.endswith("line 29 \nlast words\n")


def test_ctrl_c() -> None:
    with on_a_terminal(fake(-1, "0")) as terminal:
        terminal.read_until("contention")
        terminal.press(b"\x03")
        assert terminal.finish() == 130
    assert terminal.output.count(LEAVE) == 1
    after = terminal.output.partition(LEAVE)[2]
    assert "exit code 130" in after
    assert after.endswith("KeyboardInterrupt\r\n")


def test_a_second_ctrl_c_kills() -> None:
    with on_a_terminal(fake(-1, "stubborn")) as terminal:
        terminal.read_until("contention")
        terminal.press(b"\x03")
        terminal.read_until("waiting for the program to end")
        terminal.press(b"\x03")
        assert terminal.finish() == 137
    assert "exit code 137" in terminal.output.partition(LEAVE)[2]


def test_a_program_that_does_not_end_is_killed() -> None:
    with on_a_terminal(fake(-1, "stubborn")) as terminal:
        terminal.read_until("contention")
        terminal.press(b"\x03")
        assert terminal.finish() == 137
    assert terminal.output.count(LEAVE) == 1


def test_sigterm() -> None:
    with on_a_terminal(fake(-1, "0")) as terminal:
        terminal.read_until("contention")
        terminal.process.terminate()
        assert terminal.finish() == 143
    assert terminal.output.count(LEAVE) == 1
    assert "exit code 143" in terminal.output.partition(LEAVE)[2]


def test_ctrl_z() -> None:
    with on_a_terminal(fake(-1, "0")) as terminal:
        terminal.read_until("contention")
        terminal.press(b"\x1a")
        terminal.read_until(LEAVE)
        stopped = os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert stopped and stopped.si_status == signal.SIGSTOP
        os.killpg(terminal.process.pid, signal.SIGCONT)
        terminal.read_until(ENTER)
        terminal.press(b"\x03")
        assert terminal.finish() == 130
    assert terminal.output.count(ENTER) == terminal.output.count(LEAVE) == 2


def piped(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment(**variables), input="7\n", capture_output=True, text=True, timeout=60, check=False
    )


def test_pipe() -> None:
    done = piped(fake(3, "input"))
    assert done.returncode == 7  # what the program read
    assert done.stderr.startswith("line 11") and done.stderr.endswith("line 29 \nlast words\n")
    assert "\x1b" not in done.stdout + done.stderr
    assert "last words" not in done.stdout
    *blocks, summary = done.stdout.split("\n\n   HELD")
    assert len(blocks) == 3
    assert (
        "GIL held for 1.6 s by MainThread in json.loads\n   HELD   TOTAL s  THREAD      FUNCTION\n  60.0%      1.80  MainThread "
        in done.stdout
    )
    assert re.search(r"  exit code 7  0:00:\d\d\ncontention   80%", done.stdout)
    assert summary.endswith("  20.0%      0.80  worker_1    app.tasks.Pool.run\n")


def test_a_killed_program() -> None:
    assert piped(fake(1, "kill")).returncode == 137


def test_what_is_right_has_no_output() -> None:
    done = piped(fake(1, "0"))
    assert (done.returncode, done.stderr) == (0, "")


def test_nobody_reads_any_more() -> None:
    with subprocess.Popen(
        fake(-1, "0"), env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        try:
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(20) == 141
        finally:
            process.kill()


def test_no_observer() -> None:
    code = "import time; print('The GIL is not there'); time.sleep(4); raise SystemExit(2)"
    soon = f"from otel_gil._cli import top; top._START_TIMEOUT = 2.0; {MAIN}"
    done = piped(
        [sys.executable, "-c", soon, "top", "--", sys.executable, "-uc", code],
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="gil",
    )
    assert done.returncode == 2
    assert "0:00:00\nwaiting for the observer …\n\n" in done.stdout
    assert "waiting for the observer …\nThe GIL is not there\n\n" in done.stdout
    assert done.stdout.endswith("the observer gave no reading\nThe GIL is not there\n")
    assert done.stderr == "The GIL is not there\n"


def test_environment_of_the_program(tmp_path: Path) -> None:
    code = "import os, sys; open(sys.argv[1], 'w').write('\\n'.join(f'{k}={v}' for k, v in os.environ.items() if '\\n' not in v))"
    file = tmp_path / "environment"
    assert piped(top(sys.executable, "-c", code, str(file)), OTEL_PYTHON_GIL_STALL_THRESHOLD="50").returncode == 0
    found = dict(line.split("=", 1) for line in file.read_text().split("\n"))
    expected = environment(
        OTEL_PYTHON_GIL_STALL_THRESHOLD="50",
        OTEL_PYTHON_GIL_SAMPLER="observer",
        OTEL_METRICS_EXPORTER="none",
        OTEL_TRACES_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
    )
    # PYTHONPATH is how `opentelemetry-instrument` gets into the program.
    assert {name: found[name] for name in expected if name != "PYTHONPATH" and "\n" not in expected[name]} == {
        name: value for name, value in expected.items() if name != "PYTHONPATH" and "\n" not in value
    }


@pytest.mark.parametrize("name", ["no-such-command", "/no/such/command", __file__])
def test_no_such_command(name: str) -> None:
    done = piped(top(name))
    assert done.returncode == 127
    assert done.stdout == ""
    assert done.stderr == f"otel-gil top: {name}: command not found, or not executable\n"


@pytest.mark.parametrize("command", [["sh", "-c", "exit 9"], ["false"]])
def test_a_command_that_is_not_python(command: list[str]) -> None:
    assert piped(top(*command)).returncode == (9 if command[0] == "sh" else 1)
