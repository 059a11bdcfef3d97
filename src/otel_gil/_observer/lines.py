"""Which line of source an instruction is from, as CPython 3.11 and later note it in a code object.

The location table is a sequence of entries, each for some code units of two bytes. Bit 7 is set in the first byte of an
entry and in no other; bits 3 to 6 of it are the entry's kind, bits 0 to 2 how many code units it is for, less one.
CPython describes it in Objects/locations.md.
"""

from __future__ import annotations

_UNIT = 2
"""Bytes of a code unit."""

_FIRST = 0x80
"""The bit of an entry's first byte."""

_MORE = 0x40
"""The bit of a number's chunks but the last."""

_ONE_LINE = (10, 11, 12)
_NO_COLUMN = 13
_LONG = 14
_NO_LOCATION = 15

_CHUNKS = 6
"""Chunks of 6 bits that an int of C has at most."""


def line(linetable: bytes, first_line: int, offset: int) -> int | None:
    """The line of an instruction; None where it has none, and where the table is damaged.

    Args:
        linetable: `co_linetable`.
        first_line: `co_firstlineno`.
        offset: of the instruction, in bytes of `co_code`.
    """
    if offset < 0:
        return None
    current = first_line
    end = at = 0
    while at < len(linetable):
        entry = linetable[at]
        at += 1
        if not entry & _FIRST:
            return None
        kind = entry >> 3 & 15
        if kind in (_NO_COLUMN, _LONG):
            delta = _signed(linetable[at : at + _CHUNKS])
            if delta is None:
                return None
            current += delta
        elif kind in _ONE_LINE:
            current += kind - _ONE_LINE[0]
        end += _UNIT * ((entry & 7) + 1)
        if offset < end:
            return None if kind == _NO_LOCATION or current < 0 else current
        while at < len(linetable) and not linetable[at] & _FIRST:
            at += 1
    return None


def _signed(chunks: bytes) -> int | None:
    """The number that begins here; None where it does not end: 6 bits a byte, the lowest first, bit 0 is the sign."""
    value = 0
    for i, chunk in enumerate(chunks):
        if chunk & _FIRST:
            return None
        value |= (chunk & 0x3F) << 6 * i
        if not chunk & _MORE:
            return -(value >> 1) if value & 1 else value >> 1
    return None
