"""Where CPython keeps what: the table for debuggers that `_PyRuntime` begins with, one per minor version.

The table's own layout differs between minor versions and is fixed within one (of Include/internal, pycore_runtime.h of
3.13 and pycore_debug_offsets.h of 3.14), so a version that is not listed here can't be read.
"""

from __future__ import annotations

import struct

COOKIE = b"xdebugpy"

_COMMON_END = """
    pyobject size ob_type
    type_object size tp_name tp_repr tp_flags
    tuple_object size ob_item ob_size
    list_object size ob_item ob_size
"""

_TABLES = {
    (3, 13): f"""
    runtime_state size finalizing interpreters_head
    interpreter_state size id next threads_head gc imports_modules sysdict builtins
        ceval_gil gil_runtime_state gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder
    thread_state size prev next interp current_frame thread_id native_thread_id datastack_chunk status
    interpreter_frame size previous executable instr_ptr localsplus owner
    code_object size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds
        co_code_adaptive
    {_COMMON_END}
    dict_object size ma_keys ma_values
    float_object size ob_fval
    long_object size lv_tag ob_digit
    bytes_object size ob_size ob_sval
    unicode_object size state length asciiobject_size
    """,
    (3, 14): f"""
    runtime_state size finalizing interpreters_head
    interpreter_state size id next threads_head threads_main gc imports_modules sysdict builtins
        ceval_gil gil_runtime_state gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder
        code_object_generation tlbc_generation
    thread_state size prev next interp current_frame thread_id native_thread_id datastack_chunk status
    interpreter_frame size previous executable instr_ptr localsplus owner stackpointer tlbc_index
    code_object size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds
        co_code_adaptive co_tlbc
    {_COMMON_END}
    set_object size used table mask
    dict_object size ma_keys ma_values
    float_object size ob_fval
    long_object size lv_tag ob_digit
    bytes_object size ob_size ob_sval
    unicode_object size state length asciiobject_size
    """,
}

VERSIONS = tuple(_TABLES)
"""The minor versions of CPython that can be read."""

SIZE = 1024
"""Bytes from the start of `_PyRuntime` that hold every table."""

_HEADER = struct.Struct("=8sQQ")


def offsets(table: bytes, version: int) -> dict[str, int]:
    """The offsets by the names that CPython gives them, as in `thread_state.native_thread_id`.

    Args:
        table: the first `SIZE` bytes of `_PyRuntime`.
        version: `sys.hexversion` of what runs here.

    Raises:
        ValueError: it is not the table of an interpreter that can be read, and why.
    """
    cookie, its_version, free_threaded = _HEADER.unpack_from(table)
    if cookie != COOKIE:
        raise ValueError(f"the interpreter's table of offsets begins with {cookie!r}, not {COOKIE!r}")
    if its_version != version:
        raise ValueError(f"the interpreter's table of offsets is of version {its_version:#x}, not {version:#x}")
    if free_threaded:
        raise ValueError("the interpreter is a free-threaded one")
    known = _TABLES.get((version >> 24, version >> 16 & 0xFF))
    if known is None:
        raise ValueError(f"the table of offsets of version {version:#x} is not known")
    names = _names(known)
    values = struct.unpack_from(f"={len(names)}Q", table, _HEADER.size)
    return dict(zip(names, values, strict=True))


def _names(table: str) -> list[str]:
    # The first word of a group is the structure, which the word "size" follows.
    words = table.split()
    names = []
    group = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if following == "size":
            group = word
        else:
            names.append(f"{group}.{word}")
    return names
