"""Which holds are too long, of looks that are written down here."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from otel_gil._observer.interpreter import Gil
from otel_gil._observer.stalls import Holds

THRESHOLD = 1.0
STEP = 0.05

Seen = tuple[int, int] | None
"""Holder and switches; None where the GIL was free."""


def play(seen: Iterable[Seen], waiting: int | None = 1) -> tuple[list[float], int]:
    """The seconds too long after each look, twenty a second, and how often a thread had to ask for the GIL."""
    holds = Holds(THRESHOLD)
    held = []
    asked = 0
    for k, one in enumerate(seen):
        held.append(holds.look(k * STEP, Gil(*one, waiting if holds.asked else 0) if one else None))
        asked += holds.ask(k * STEP)
    return held, asked


@pytest.mark.parametrize("waiting", [1, 5, None])
def test_a_hold_that_nobody_can_end(waiting: int | None) -> None:
    held, asked = play([None] + [(7, 3)] * 61 + [None] * 3, waiting)
    late = [seconds for seconds in held if seconds]
    assert late == pytest.approx([k * STEP for k in range(21, 61)])
    assert held[1:21] == [0.0] * 20
    assert held[-3:] == [0.0] * 3
    assert asked == 1


def test_python_code_gives_the_gil_to_who_asks() -> None:
    """To the thread that was told to, and goes on: two switches."""
    seen: list[Seen] = []
    holds = Holds(THRESHOLD)
    switches = 0
    for k in range(200):
        gil = Gil(7, switches, 0)
        seen.append((7, switches))
        assert holds.look(k * STEP, gil) == 0
        if holds.ask(k * STEP):
            switches += 2
    assert switches == 2 * (200 * STEP // (THRESHOLD / 2 + STEP))


def test_threads_that_give_it_to_each_other() -> None:
    held, asked = play([(k % 2, k) for k in range(200)])
    assert (set(held), asked) == ({0.0}, 0)


def test_short_holds() -> None:
    held, asked = play(([(7, 3)] * 8 + [None]) * 20)
    assert (set(held), asked) == ({0.0}, 0)


def test_one_that_ends_after_it_was_asked_for() -> None:
    held, asked = play(([(7, 3)] * 15 + [None]) * 5)
    assert (set(held), asked) == ({0.0}, 5)


@pytest.mark.parametrize("other", [(8, 4), (7, 5), (8, 3)])
def test_another_hold(other: tuple[int, int]) -> None:
    """Of another thread, or of the same one that others had it in between."""
    held, asked = play([(7, 3)] * 30 + [other] * 30)
    assert held[30:50] == [0.0] * 20
    assert held[29] == pytest.approx(29 * STEP)
    assert held[59] == pytest.approx(29 * STEP)
    assert asked == 2


def test_two_holds_of_one_thread() -> None:
    """No other thread had the GIL in between, but it was free."""
    held, _ = play([(7, 3)] * 30 + [None] + [(7, 3)] * 30)
    assert held[30:51] == [0.0] * 21
    assert held[60] == pytest.approx(29 * STEP)


def test_a_thread_that_could_not_ask_yet() -> None:
    """Without a core for it. That it asks shows in the number of those that wait."""
    held, asked = play([(7, 3)] * 100, waiting=0)
    assert (set(held), asked) == ({0.0}, 1)
