"""The table of offsets: as it is written down in CPython's headers, and that of the interpreter that runs here."""

from __future__ import annotations

import struct
import sys
import sysconfig
from pathlib import Path

import pytest

from otel_gil._observer.layout import COOKIE, SIZE, VERSIONS, offsets
from otel_gil._observer.memory import Memory
from otel_gil._samplers import observer

FIELDS = {
    0x030D00F0: {
        "runtime_state.size": 0,
        "runtime_state.interpreters_head": 2,
        "interpreter_state.id": 4,
        "interpreter_state.next": 5,
        "interpreter_state.ceval_gil": 11,
        "interpreter_state.gil_runtime_state": 12,
        "interpreter_state.gil_runtime_state_locked": 14,
        "interpreter_state.gil_runtime_state_holder": 15,
        "thread_state.interp": 19,
        "thread_state.current_frame": 20,
        "thread_state.native_thread_id": 22,
        "interpreter_frame.previous": 26,
        "interpreter_frame.executable": 27,
        "interpreter_frame.instr_ptr": 28,
        "interpreter_frame.owner": 30,
        "code_object.filename": 32,
        "code_object.qualname": 34,
        "code_object.linetable": 35,
        "code_object.firstlineno": 36,
        "code_object.co_code_adaptive": 40,
        "pyobject.ob_type": 42,
        "bytes_object.ob_size": 62,
        "bytes_object.ob_sval": 63,
        "unicode_object.state": 65,
        "unicode_object.length": 66,
        "unicode_object.asciiobject_size": 67,
    },
    0x030E02F0: {
        "runtime_state.size": 0,
        "runtime_state.interpreters_head": 2,
        "interpreter_state.id": 4,
        "interpreter_state.next": 5,
        "interpreter_state.ceval_gil": 12,
        "interpreter_state.gil_runtime_state": 13,
        "interpreter_state.gil_runtime_state_locked": 15,
        "interpreter_state.gil_runtime_state_holder": 16,
        "thread_state.interp": 22,
        "thread_state.current_frame": 23,
        "thread_state.native_thread_id": 25,
        "interpreter_frame.previous": 29,
        "interpreter_frame.executable": 30,
        "interpreter_frame.instr_ptr": 31,
        "interpreter_frame.owner": 33,
        "code_object.filename": 37,
        "code_object.qualname": 39,
        "code_object.linetable": 40,
        "code_object.firstlineno": 41,
        "code_object.co_code_adaptive": 45,
        "pyobject.ob_type": 48,
        "bytes_object.ob_size": 72,
        "bytes_object.ob_sval": 73,
        "unicode_object.state": 75,
        "unicode_object.length": 76,
        "unicode_object.asciiobject_size": 77,
    },
}
"""Which number of the table it is, after cookie, version and whether it is free-threaded."""


def _table(version: int, cookie: bytes = COOKIE, free_threaded: int = 0) -> bytes:
    """A table whose numbers are 1000 and what number they are."""
    table = struct.pack("=8sQQ", cookie, version, free_threaded) + struct.pack("=80Q", *range(1000, 1080))
    return table.ljust(SIZE, b"\xff")


@pytest.mark.parametrize("version", FIELDS, ids=hex)
def test_order(version: int) -> None:
    found = offsets(_table(version), version)
    assert {name: found[name] - 1000 for name in FIELDS[version]} == FIELDS[version]
    assert list(found.values()) == list(range(1000, 1000 + len(found)))
    assert max(found.values()) == found["unicode_object.asciiobject_size"]


def test_every_version_is_tested() -> None:
    assert [(version >> 24, version >> 16 & 0xFF) for version in FIELDS] == list(VERSIONS)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (_table(0x030D00F0, cookie=b"elsewise"), "begins with b'elsewise', not b'xdebugpy'"),
        (bytes(SIZE), "begins with b'.*', not b'xdebugpy'"),
        (_table(0x030D01F0), "is of version 0x30d01f0, not 0x30d00f0"),
        (_table(0x030E00F0), "is of version 0x30e00f0, not 0x30d00f0"),
        (_table(0x030D00F0, free_threaded=1), "free-threaded"),
    ],
)
def test_another_table(table: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        offsets(table, 0x030D00F0)


@pytest.mark.parametrize("version", [0x030C00F0, 0x030F00A1, 0x040D00F0])
def test_another_version_of_cpython(version: int) -> None:
    with pytest.raises(ValueError, match=f"version {version:#x} is not known"):
        offsets(_table(version), version)


needs_observer = pytest.mark.skipif(observer.unavailable() is not None, reason=str(observer.unavailable()))


@needs_observer
def test_of_this_interpreter() -> None:
    from otel_gil import _interpreter

    memory = Memory()
    start = _interpreter.runtime()
    at = offsets(memory.read(start, SIZE), sys.hexversion)
    memory.close()
    assert at["pyobject.size"] == object.__basicsize__
    assert at["pyobject.ob_type"] == 8
    assert at["unicode_object.asciiobject_size"] == str().__sizeof__() - 1
    assert at["bytes_object.ob_sval"] == b"".__sizeof__() - 1
    assert at["tuple_object.ob_size"] == at["bytes_object.ob_size"] == 16
    assert at["code_object.co_code_adaptive"] < (lambda: 0).__code__.__sizeof__() < 1000
    for group in {name.partition(".")[0] for name in at}:
        size = at[f"{group}.size"]
        assert size % 4 == 0
        assert all(offset <= size for name, offset in at.items() if name.startswith(f"{group}."))


@needs_observer
def test_as_the_header_of_this_interpreter_declares_it() -> None:
    folder = Path(sysconfig.get_path("include")) / "internal"
    headers = [folder / "pycore_debug_offsets.h", folder / "pycore_runtime.h"]
    header = next((header for header in headers if header.exists()), None)
    if header is None:
        pytest.skip("there are no headers of this interpreter")
    declared: list[str] = []
    fields: list[str] = []
    lines = header.read_text().partition("struct _Py_DebugOffsets {")[2].partition("} _Py_DebugOffsets;")[0]
    for words in map(str.split, lines.splitlines()):
        if words[:1] == ["uint64_t"]:
            fields.append(words[1].rstrip(";"))
        elif words[:1] == ["struct"]:
            fields = []
        elif words[:1] == ["}"]:
            declared += [f"{words[1].rstrip(';')}.{name}" for name in fields]
    ours = list(offsets(_table(sys.hexversion), sys.hexversion))
    assert ours == declared[: len(ours)]
