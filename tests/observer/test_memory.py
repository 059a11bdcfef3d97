"""Reading this process's own memory, also where there is none."""

from __future__ import annotations

import ctypes
import os
import random
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("there is no /proc/self/mem", allow_module_level=True)

from otel_gil._observer.memory import Memory


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    memory.close()


def test_reads_what_is_there(memory: Memory) -> None:
    data = bytes(range(256)) * 100
    buffer = bytearray(data)
    start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    assert memory.read(start, len(data)) == data
    assert memory.read(start + 3, 5) == b"\3\4\5\6\7"
    assert memory.word(start) == int.from_bytes(data[:8], sys.byteorder)
    buffer[0:8] = struct.pack("=Q", 2**64 - 1)
    assert memory.word(start) == 2**64 - 1


@pytest.mark.parametrize(
    "address", [0, 1, 4095, -1, -8, 2**47 - 8, 2**48, 2**56 - 1, 2**56, 2**63 - 1, 2**63, 2**64 - 8, 2**64, 2**100]
)
def test_where_nothing_is(memory: Memory, address: int) -> None:
    with pytest.raises(OSError, match=r"."):
        memory.read(address, 8)
    with pytest.raises(OSError, match=r"."):
        memory.word(address)


def test_beyond_the_end(memory: Memory) -> None:
    """What is there of it is not enough."""
    tried = 0
    for line, following in pairwise(Path("/proc/self/maps").read_text().splitlines()):
        end = int(line.split()[0].split("-")[1], 16)
        if " r" in line and "[" not in line and end < int(following.split("-")[0], 16):
            assert len(memory.read(end - 8, 8)) == 8
            for address in end - 7, end - 1, end:
                with pytest.raises(OSError, match=f"no memory at {end:#x}|error"):
                    memory.read(address, 8)
            tried += 1
    assert tried


def test_anywhere(memory: Memory) -> None:
    """Bytes or OSError; among the addresses are those of memory that is no memory, as of devices and the kernel."""
    chance = random.Random(1)
    maps = Path("/proc/self/maps").read_text().splitlines()
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
    addresses = [end + offset for ends in ranges for end in ends for offset in (-9, -4, 0)]
    addresses += [chance.randrange(begin, end) for begin, end in ranges for _ in range(5)]
    addresses += [chance.getrandbits(chance.randrange(1, 70)) for _ in range(5000)]
    read = 0
    for address in addresses:
        with suppress(OSError):
            assert len(memory.read(address, 8)) == 8
            read += 1
    assert read > len(ranges)


def test_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    memory = Memory()
    memory.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(OSError, match="descriptor"):
        memory.read(id(memory), 8)
