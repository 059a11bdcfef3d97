"""What is written to shared memory, and read there by others at the same time."""

from __future__ import annotations

import mmap
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_gil._observer.board import Board
from otel_gil._snapshot import Held, Snapshot, Stall

NUMBERS = st.floats(0, allow_infinity=False)
COUNTS = st.none() | st.integers(0, 2**64)
STALLS = st.builds(Stall, NUMBERS, st.text(), st.integers(0), st.text(), st.text(), COUNTS, st.text())
HELD = st.lists(st.builds(Held, st.text(), st.text(), NUMBERS), max_size=21).map(tuple)
SNAPSHOTS = st.builds(
    Snapshot, NUMBERS, NUMBERS, NUMBERS, COUNTS, st.none() | NUMBERS, COUNTS, COUNTS, st.none() | STALLS, HELD
)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    with (tmp_path / "board").open("w+b") as file:
        file.truncate(Board.SIZE)
        yield file


@pytest.fixture
def boards(file: BinaryIO) -> tuple[Board, Board]:
    """One to write on, and the same one for somebody else to read."""
    return Board(file.fileno()), Board(file.fileno())


def test_nothing_yet(boards: tuple[Board, Board]) -> None:
    assert boards[1].read() is None


def test_states(boards: tuple[Board, Board]) -> None:
    ours, theirs = boards
    for state in ("ready", "it is not as it should be: 🕳", ""):
        ours.write(state)
        assert theirs.read() == theirs.read() == state


@given(st.lists(st.text() | SNAPSHOTS, min_size=1, max_size=5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_last_is_read(boards: tuple[Board, Board], written: list[Snapshot | str]) -> None:
    ours, theirs = boards
    for one in written:
        ours.write(one)
        found = theirs.read()
        assert found == one
        if isinstance(found, Snapshot):
            assert found.stall is None or isinstance(found.stall, Stall)
            assert all(isinstance(held, Held) for held in found.held)


def test_as_much_as_there_can_be(boards: tuple[Board, Board]) -> None:
    """Names of 200 characters and a stack of 20,000, of which none is in ASCII."""
    ours, theirs = boards
    stall = Stall(1e9, "😀" * 100, 2**22, "∀" * 200, "∀" * 200, 10**6, "∀" * 19_900)
    held = tuple(Held("𝟙" * 50 + str(k), "∀" * 200, 1e9) for k in range(21))
    snapshot = Snapshot(1.0, 1e9, 1e9, 10**6, 1e9, 2**63, 2**31, stall, held)
    for _ in range(3):
        ours.write(snapshot)
        assert theirs.read() == snapshot


@pytest.mark.parametrize("length", [60_000, 65_000, 66_000, 200_000])
def test_too_much(boards: tuple[Board, Board], length: int) -> None:
    """Leaves out what there is no room for, and harms neither this snapshot nor the one before."""
    ours, theirs = boards
    before = Snapshot(0.1, 1.0, 2.0, held=(Held("MainThread", "f", 1.0),))
    large = Snapshot(0.2, 2.0, 3.0, 1, 1.0, 5, 1, Stall(2.0, "MainThread", 1), (Held("x" * length, "", 2.0),))
    for _ in range(2):
        ours.write(before)
        assert theirs.read() == before
        ours.write(large)
        found = theirs.read()
        assert found == (large if length <= 65_000 else large._replace(stall=None, held=()))
        assert Board.read(ours) == found
    ours.write("∀" * length)
    state = theirs.read()
    assert isinstance(state, str)
    assert len(state) > 20_000
    assert set(state[:-1]) == {"∀"}


def test_what_does_not_fit_spares_the_other_place(file: BinaryIO) -> None:
    """The one before is what is read while the next one is written."""
    board = Board(file.fileno())
    memory = mmap.mmap(file.fileno(), Board.SIZE)
    for size in range(Board.SIZE // 2 - 200, Board.SIZE // 2 + 10):
        board.write("before")
        last = memory[0]
        before = memory[16 : Board.SIZE // 2] if last == 1 else memory[Board.SIZE // 2 :]
        board.write("x" * size)
        assert memory[0] != last
        assert before == (memory[16 : Board.SIZE // 2] if last == 1 else memory[Board.SIZE // 2 :])


def test_one_that_has_not_arrived_yet(file: BinaryIO) -> None:
    """A processor may show another one the latest writing before an earlier one."""
    board = Board(file.fileno())
    memory = mmap.mmap(file.fileno(), Board.SIZE)
    memory[0] = 1
    assert board.read() is None
    memory[16:24] = (2**63).to_bytes(8, "little")
    assert board.read() is None
    board.write("ready")
    assert board.read() == "ready"


WRITER = """
import sys
from otel_gil._observer.board import Board
from otel_gil._snapshot import Held, Snapshot

file = open(sys.argv[1], "r+b")
board = Board(file.fileno())
sys.stdout.write("x"), sys.stdout.flush()
n = 0
while True:
    n += 1
    board.write(Snapshot(n, n, n, held=tuple(Held(str(n), "f" * (n % 300), n) for _ in range(n % 21))))
"""


def test_never_torn(file: BinaryIO) -> None:
    """A process writes as fast as it can, and this one reads."""
    board = Board(file.fileno())
    with subprocess.Popen([sys.executable, "-c", WRITER, file.name], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.read(1)
            end = time.monotonic() + 1
            seen = set()
            last = 0.0
            while time.monotonic() < end:
                found = board.read()
                if found is None:
                    continue  # each attempt was too slow
                assert isinstance(found, Snapshot)
                n = found.blocked
                assert n >= last
                assert found == Snapshot(n, n, n, held=(Held(str(n), "f" * (int(n) % 300), n),) * (int(n) % 21))
                last = n
                seen.add(n)
        finally:
            writer.kill()
    assert len(seen) > 20
