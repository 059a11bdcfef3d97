"""Lines of instructions: as CPython reads its own tables, in tables made for the purpose, and in damaged ones."""

from __future__ import annotations

import importlib.util
import sys
from itertools import accumulate
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_gil._observer.lines import line

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = (
    "abc argparse asyncio.base_events asyncio.taskgroups bisect concurrent.futures.thread contextlib dataclasses "
    "email.message enum fractions functools heapq json.decoder multiprocessing.managers os queue random selectors socket "
    "statistics tempfile textwrap threading traceback weakref"
).split()

Entry = tuple[int, int, int]
"""Kind, code units, and by how much the line changes."""


def _with_constants(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_constants(constant)


@pytest.mark.parametrize("name", MODULES)
def test_as_python_reads_it(name: str) -> None:
    """Every instruction of every function."""
    if sys.version_info < (3, 11):
        pytest.skip("these tables came with CPython 3.11")
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    file = spec.origin if spec.has_location else vars(importlib.import_module(name))["__file__"]
    assert file is not None
    for code in _with_constants(compile(Path(file).read_bytes(), file, "exec")):
        expected = [position[0] for position in code.co_positions()]
        read = [line(code.co_linetable, code.co_firstlineno, 2 * unit) for unit in range(len(expected))]
        assert read == expected, code
        assert line(code.co_linetable, code.co_firstlineno, 2 * len(expected)) is None


def test_one_of_3_13() -> None:
    """A function with all but one kind of entry, and with instructions that have no line."""
    table = bytes.fromhex(
        "8000f002090514dc0f10d80c0df30302100af00002090af8f406000c16f300050514db1112884191449111f108001014f00b050514fa"
    )
    lines = [1, 2, *[3] * 5, 4, *[3] * 5, None, *[6] * 9, *[7] * 9, 11, 11, 6, None, None, None, None]
    assert [line(table, 1, 2 * unit) for unit in range(len(lines))] == lines
    assert line(table, 101, 2) == 102
    assert line(table, 1, 3) == 2, "the second byte of an instruction"
    assert line(table, 1, -2) is None, "a frame that has not begun"


def _varint(value: int) -> bytes:
    chunks = b""
    while value > 63:
        chunks += bytes([0x40 | value & 63])
        value >>= 6
    return chunks + bytes([value])


def _svarint(value: int) -> bytes:
    return _varint(-value << 1 | 1 if value < 0 else value << 1)


def _encoded(entry: Entry) -> bytes:
    kind, units, delta = entry
    operands = {13: _svarint(delta), 14: _svarint(delta) + _varint(70) + _varint(200) + _varint(0), 15: b""}
    columns = b"\x7f" if kind < 10 else b"\x7f\x40"
    return bytes([0x80 | kind << 3 | units - 1]) + operands.get(kind, columns)


@st.composite
def _entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.integers(0, 15))
    delta = draw(st.integers(-(2**20), 2**20)) if kind in (13, 14) else max(kind - 10, 0) if kind < 13 else 0
    return kind, draw(st.integers(1, 8)), delta


TABLES = st.lists(_entries())


@given(TABLES, st.integers(0, 10_000))
def test_every_kind_of_entry(entries: list[Entry], first: int) -> None:
    table = b"".join(map(_encoded, entries))
    expected: list[int | None] = []
    lines = list(accumulate((delta for _, _, delta in entries), initial=first))[1:]
    for (kind, units, _), current in zip(entries, lines, strict=True):
        expected += [None if kind == 15 or current < 0 else current] * units
    assert [line(table, first, 2 * unit) for unit in range(len(expected) + 1)] == [*expected, None]


@given(TABLES, st.data())
def test_cut_off(entries: list[Entry], data: st.DataObject) -> None:
    """What is left of a table is read rightly or not at all."""
    table = b"".join(map(_encoded, entries))
    cut = table[: data.draw(st.integers(0, len(table)))]
    for unit in range(sum(units for _, units, _ in entries)):
        assert line(cut, 1, 2 * unit) in (None, line(table, 1, 2 * unit))


@given(st.binary(), st.integers(), st.integers())
def test_anything(table: bytes, first: int, offset: int) -> None:
    found = line(table, first, offset)
    assert found is None or found >= 0


@pytest.mark.parametrize(
    "table",
    [b"", b"\x00", b"\x7f", b"\xe8", b"\xe8\x40", b"\xe8\x80", b"\xf0" + b"\x7f" * 1_000_000, b"\xf8" * 1000],
    ids=lambda table: table[:3].hex() or "empty",
)
def test_damaged(table: bytes) -> None:
    assert line(table, 1, 0) is None
