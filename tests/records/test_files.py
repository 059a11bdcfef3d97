"""Files of records: what is not one, or is not ours, is left alone; who reads one does nothing to its process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from marks import with_observer

from otel_gil._records import files, record
from otel_gil._records.record import RecordReader

pytestmark = with_observer

RECORDED = """
import sys, threading, time
from opentelemetry.sdk.metrics import MeterProvider
from otel_gil import GilInstrumentor
from otel_gil._records import files
files.parents = lambda: sys.argv[1].split(":")
GilInstrumentor().instrument(meter_provider=MeterProvider(), sampler="observer")
"""
WAITING = RECORDED + "print('ready', flush=True); sys.stdin.read()"
BURNING = RECORDED + "print('ready', flush=True)\nwhile True: pass"


@pytest.fixture
def parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found = [str(tmp_path)]
    monkeypatch.setattr(files, "parents", lambda: found)
    return found


@pytest.fixture
def process(parents: list[str]) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, ":".join(parents)]
        new = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(new)
        assert new.stdout
        assert new.stdout.readline() == "ready\n"
        return new

    yield start
    for one in started:
        one.kill()
        one.communicate()


def folder(parents: list[str]) -> Path:
    return Path(parents[0], f"otel-gil-{os.geteuid()}")


def found(eventually: Callable[[Callable[[], bool]], None], pid: int) -> files.RecordFile:
    """The record of a process, which has written a state into it: its head is written a moment before."""
    mine: list[files.RecordFile] = []

    def look() -> bool:
        for one in files.records():
            if one.head.pid == pid and not mine and has_state(one):
                mine.append(one)
            else:
                one.close()
        return bool(mine)

    def has_state(one: files.RecordFile) -> bool:
        try:
            one.state()
        except OSError:
            return False
        return True

    eventually(look)
    return mine[0]


Start = Callable[[str], "subprocess.Popen[str]"]
Eventually = Callable[[Callable[[], bool]], None]


def test_another_process_reads_it(parents: list[str], process: Start, eventually: Eventually) -> None:
    """Also of a process that is not asked, and can't answer: who holds its GIL, and for how long, up to this moment."""
    running = process(BURNING)
    with closing(found(eventually, running.pid)) as file:
        assert file.head.window == 10.0
        assert BURNING[:30] in file.head.command
        reader = RecordReader(file, file.head.window, file.paths, time.monotonic())
        eventually(lambda: (reader.read(time.monotonic()) or (0, 0))[1] > 0.5)
        running.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        stopped = reader.read(time.monotonic())
        time.sleep(0.5)
        assert reader.read(time.monotonic()) == stopped  # it is not observed, and nothing is made up
        running.send_signal(signal.SIGCONT)
        assert stopped
        assert stopped.contention > 0.8
        assert {time.thread for time in stopped.held} <= {"MainThread", "_other"}
        assert {time.function for time in stopped.held if time.thread == "MainThread"} <= {"<string>.<module>"}
        assert file.alive
        running.kill()
        running.wait()
        assert not file.alive
    (left,) = folder(parents).iterdir()
    os.utime(left, (0, 0))  # what was written just now is left alone
    process(WAITING)  # another one, which sweeps
    eventually(lambda: not left.exists())
    assert len(list(folder(parents).iterdir())) == 1


def test_it_is_for_the_user_alone_and_removed_at_the_end(parents: list[str], process: Start) -> None:
    running = process(WAITING)
    time.sleep(0.1)
    (path,) = folder(parents).iterdir()
    assert stat.S_IMODE(folder(parents).stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == record.SIZE <= 512 * 1024
    assert path.stat().st_blocks * 512 <= 128 * 1024  # sparse
    os.utime(path, (0, 0))
    process(WAITING)  # another one leaves it alone
    time.sleep(0.3)
    assert path.exists()
    assert running.communicate("")[0] == ""
    assert running.returncode == 0
    assert not path.exists()


def _is_recorded(parents: list[str]) -> bool:
    """Whether a process makes a record in the first of these folders; it must run in any case."""
    code = RECORDED + "time.sleep(.2); from otel_gil import _recorder; print(_recorder.path())"
    run = [sys.executable, "-c", code, ":".join(parents)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout.startswith(f"{parents[0]}/otel-gil-")


def test_a_link_in_place_of_the_folder(parents: list[str], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder(parents).symlink_to(elsewhere)
    assert not _is_recorded(parents)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o750])
def test_a_folder_that_others_can_use(parents: list[str], mode: int) -> None:
    folder(parents).mkdir()
    folder(parents).chmod(mode)
    assert not _is_recorded(parents)
    assert not list(folder(parents).iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user(parents: list[str]) -> None:
    folder(parents).mkdir(mode=0o700)
    os.chown(folder(parents), 65534, 65534)
    assert not _is_recorded(parents)
    assert not list(files.records())


def test_where_the_first_folder_is_not_fit_the_next_is_taken(parents: list[str], tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    folder(parents).write_text("a file")
    assert not _is_recorded([*parents, str(tmp_path / "next")])
    assert _is_recorded([str(tmp_path / "next"), *parents])
    assert _is_recorded([str(tmp_path / "next")])


def test_nowhere() -> None:
    assert not _is_recorded(["/nowhere", "/proc"])


def _records(parents: list[str]) -> list[str]:
    opened = list(files.records())
    for one in opened:
        one.close()
    return [Path(one.path).name for one in opened]


def _has_state(record: files.RecordFile) -> bool:
    try:
        return bool(record.state())
    except OSError:
        return False


@pytest.mark.parametrize("damage", ["truncate", "magic", "version", "size", "states", "empty", "random"])
def test_a_file_that_is_no_record(parents: list[str], process: Start, eventually: Eventually, damage: str) -> None:
    """It is not read, and its process goes on, as it does not map what others can cut off."""
    running = process(WAITING)
    time.sleep(0.2)
    (path,) = folder(parents).iterdir()
    assert _records(parents) == [path.name]
    opened = files.RecordFile(str(path))
    with path.open("r+b") as file:
        if damage == "truncate":
            file.truncate(record.STATES + 100)
        elif damage == "empty":
            file.truncate(0)
        elif damage == "random":
            file.write(os.urandom(record.SIZE))
        else:
            # version and size are of a future that is not known
            file.seek({"magic": 0, "version": 8, "size": 12, "states": record.STATES}[damage])
            file.write(b"\xff" * (2 * record.STATE_SIZE if damage == "states" else 4))
    if damage == "states":
        eventually(lambda: _has_state(opened))  # the next one is whole
    elif damage == "truncate":
        with pytest.raises(OSError, match="cut off|no state"):
            opened.read(record.FUNCTIONS, record.FUNCTION_SIZE)
    else:
        assert _records(parents) == []
        with pytest.raises(OSError, match=r"is no record|is cut off|of version"):
            files.RecordFile(str(path))
    opened.close()
    time.sleep(0.3)
    assert running.poll() is None
    running.communicate("")
    assert running.returncode == 0


def test_a_file_that_is_removed(parents: list[str], process: Start) -> None:
    running = process(WAITING)
    time.sleep(0.1)
    (path,) = folder(parents).iterdir()
    path.unlink()
    path.write_text("another's")
    time.sleep(0.3)
    running.communicate("")
    assert running.returncode == 0
    assert path.read_text() == "another's"


def test_a_link_among_the_files(parents: list[str], process: Start, tmp_path: Path) -> None:
    process(WAITING)
    time.sleep(0.1)
    (path,) = folder(parents).iterdir()
    (folder(parents) / "link").symlink_to(path)
    assert _records(parents) == [path.name]
    with pytest.raises(OSError, match="symbolic links"):
        files.RecordFile(str(folder(parents) / "link"))


def test_the_pid_of_a_dead_process_that_another_one_has(
    parents: list[str], process: Start, eventually: Eventually
) -> None:
    """A record lives as long as its lock, whatever processes there are of that number."""
    running = process(WAITING)
    time.sleep(0.1)
    (path,) = folder(parents).iterdir()
    left = path.with_name("left")
    data = bytearray(path.read_bytes())
    data[16:24] = os.getpid().to_bytes(8, sys.byteorder)  # that of a process which lives
    left.write_bytes(data)
    os.utime(left, (0, 0))
    assert _records(parents) == [path.name]
    process(WAITING)
    eventually(lambda: not left.exists())
    assert path.exists()
    assert running.poll() is None


def test_a_full_file_system(parents: list[str]) -> None:
    """Writing fails, and nothing else."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        + RECORDED
        + "time.sleep(.3); from otel_gil import _recorder; print(_recorder.running(), len(_recorder.state()) > 1000)"
    )
    run = [sys.executable, "-c", code, ":".join(parents)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")


def test_a_process_that_closes_all_files(parents: list[str], process: Start, eventually: Eventually) -> None:
    """As daemons do: it is recorded on, and what it opens after that is its own."""
    code = RECORDED + (
        "import os; time.sleep(.1)\n"
        "print('ready', flush=True)\n"
        "os.closerange(3, 4096)\n"
        "file = os.open(sys.argv[1] + '/own', os.O_RDWR | os.O_CREAT)\n"
        "[os.dup2(file, i) for i in range(500, 600)]\n"
        "sys.stdin.read()\n"
    )
    running = process(code)
    time.sleep(2.5)
    with closing(found(eventually, running.pid)) as file:
        first = record.STATE.unpack_from(file.state())[2]
        eventually(lambda: int(record.STATE.unpack_from(file.state())[2]) > first)
    running.communicate("")
    assert running.returncode == 0
    assert Path(parents[0], "own").read_bytes() == b""
