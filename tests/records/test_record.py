"""What looks amount to, in virtual time: the sums in C, and the reader of the record that they are written into."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import with_observer

from otel_gil._records import record
from otel_gil._records.record import RecordReader, State
from otel_gil._snapshot import Snapshot

pytestmark = with_observer

WINDOW = 10.0


class Look(NamedTuple):
    """What was seen after a sleep."""

    sleep: float
    pace: int
    locked: bool
    waiting: int
    name: int = 1
    function: int = 1
    pending: int = 0
    waiters: list[tuple[int, int, int]] | None = None


def state(looks: list[Look]) -> bytes:
    from otel_gil import _recorder

    moments = list(accumulate(look.sleep for look in looks))
    dues = [*moments[1:], moments[-1] + 1.0] if moments else []
    return _recorder.look(
        [
            (now, look.pace, look.locked, look.waiting, look.name, look.function, look.pending, due, look.waiters)
            for now, due, look in zip(moments, dues, looks, strict=True)
        ],
        WINDOW,
    )


def numbers(looks: list[Look]) -> State:
    return State._make(record.STATE.unpack_from(state(looks)))


class Virtual:
    """A record in virtual time, whose names say in which slots they are."""

    def __init__(self) -> None:
        self.looks: list[Look] = []

    def state(self) -> bytes:
        data = bytearray(state(self.looks))
        known = record.STATE.unpack_from(data)
        data[: record.STATE.size] = record.STATE.pack(*State._make(known)._replace(known=7))
        for at in range(record.ROWS, len(data), record.ROW.size):
            data[at + 8 : at + 12] = bytes(4)  # generations, which observers of other tests may have raised
        return bytes(data)

    def read(self, offset: int, size: int) -> bytes:
        if size == record.NAME_SIZE:
            name = b"t%d" % ((offset - record.NAMES) // size)
            return record._NAME.pack(0, 0, len(name), name)
        function = b"f%d" % ((offset - record.FUNCTIONS) // size)
        return record._FUNCTION.pack(0, 0, 9, 1, len(function), b"/x/app.py", function)


def reader(virtual: Virtual) -> RecordReader:
    return RecordReader(virtual, WINDOW, lambda: ("/x",), 0.0)


SLEEPS = st.floats(0.001, 0.2)
WAITERS = st.none() | st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(0)), min_size=1, max_size=5)
LOOKS = st.lists(
    st.builds(
        Look,
        SLEEPS,
        st.sampled_from([1, 4]),
        st.booleans(),
        st.integers(0, 5),
        st.integers(1, 30),
        st.integers(1, 30),
        st.integers(0, 3),
        WAITERS,
    ),
    max_size=60,
)


@given(LOOKS)
@settings(deadline=None)
def test_sums(looks: list[Look]) -> None:
    """All time from the first look on is blocked or free, contended time is blocked, holders have what is blocked."""
    found = numbers(looks)
    observed = sum(look.sleep for look in looks[1:])
    assert found.blocked + found.free == pytest.approx(observed, abs=1e-6)
    assert 0 <= found.contended <= found.blocked + 1e-9
    assert found.waited >= found.contended - 1e-9
    assert 0 <= found.contended_weight <= found.blocked_weight <= 1 + 1e-9
    rows = list(record.ROW.iter_unpack(state(looks)[record.ROWS :]))
    held = rows[: found.held_rows]
    assert sum(row[6] for row in held) == pytest.approx(found.blocked, abs=1e-4)
    assert sum(row[7] for row in held) == pytest.approx(found.blocked_weight, abs=1e-4)
    assert sum(row[6] for row in rows[found.held_rows :]) <= found.waited + 1e-6
    assert len({row[0] for row in held}) == len(held)


@given(LOOKS, st.lists(st.floats(0, 0.3), max_size=60))
@settings(deadline=None)
def test_nothing_is_taken_back(looks: list[Look], later: list[float]) -> None:
    """However often, and whenever, it is read: no total falls, and each is what its parts have together."""
    virtual = Virtual()
    read = reader(virtual)
    now = 0.0
    last = Snapshot(0.0, 0.0, 0.0, 0.0, wait_time=0.0)
    for i, look in enumerate(looks):
        now += look.sleep
        virtual.looks.append(look._replace(pending=0))
        moment = now
        until = now + looks[i + 1].sleep if i + 1 < len(looks) else math.inf
        for pause in [0.0, *later[i : i + 2]]:
            moment = min(moment + pause, until)
            found = read.read(moment)
            if found is None:
                assert moment == looks[0].sleep  # nothing is observed before the first look
                continue
            for name in ("blocked", "free", "contended", "wait_time"):
                assert getattr(found, name) >= getattr(last, name) - 1e-9
            before = {time[:2]: time.seconds for time in last.held}
            assert all(time.seconds >= before.get(time[:2], 0.0) - 1e-9 for time in found.held)
            assert 0 <= found.contention <= 1
            last = found
    if looks:
        read.read(now + 400.0)  # what has got no series is in the rest
        virtual.looks = [*virtual.looks, Look(2.0, 1, True, 0)]
        assert (found := read.read(now + 405.0))
        assert sum(time.seconds for time in found.held) == pytest.approx(found.blocked, abs=1e-3)


def test_always_and_never() -> None:
    held = [Look(0.02, 1, locked=True, waiting=0)] * 600
    assert numbers(held).free == pytest.approx(0.0, abs=1e-9)
    assert numbers([look._replace(locked=False) for look in held]).blocked == 0.0


def test_the_time_since_the_last_look_is_added() -> None:
    virtual = Virtual()
    read = reader(virtual)
    virtual.looks = [Look(0.02, 1, True, 2)] * 10
    assert (at_once := read.read(0.2))
    assert (later := read.read(0.9))
    assert later.blocked - at_once.blocked == pytest.approx(0.7)
    assert (later.contended or 0) - (at_once.contended or 0) == pytest.approx(0.7)
    assert (later.wait_time or 0) - (at_once.wait_time or 0) == pytest.approx(1.4)
    assert later.held[0].seconds - at_once.held[0].seconds == pytest.approx(0.7)


def test_time_in_which_the_process_was_stopped_is_not_observed() -> None:
    virtual = Virtual()
    read = reader(virtual)
    virtual.looks = [Look(0.02, 1, True, 0)] * 10
    assert (stopped := read.read(100.0))
    assert stopped.blocked < 0.18 + 1.0 + 0.3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_shares_of_a_workload(share: float) -> None:
    """A rhythm of 100 ms: held, contended and waited are what they are, and the holders' parts as well."""
    random = Random(7)
    now, looks = 0.0, []
    while now < 400:
        sleep = random.expovariate(1 / 0.01)
        now += sleep
        phase = now % 0.1 / 0.1
        looks.append(
            Look(
                sleep, 1, phase < share, 2 if phase < share / 2 else 0, 1 if phase < share / 4 else 2, 1, 0, [(3, 4, 0)]
            )
        )
    found = numbers(looks)
    observed = found.blocked + found.free
    assert found.blocked / observed == pytest.approx(share, abs=0.02)
    assert found.contended / observed == pytest.approx(share / 2, abs=0.02)
    assert found.waited / observed == pytest.approx(share, abs=0.03)
    rows = {row[1]: row[6] for row in list(record.ROW.iter_unpack(state(looks)[record.ROWS :]))[: found.held_rows]}
    assert rows[1] / observed == pytest.approx(share / 4, abs=0.02)
    assert rows[2] / observed == pytest.approx(share * 3 / 4, abs=0.02)


def test_who_waits_is_told_now_and_then() -> None:
    """One look in four tells who waits, and stands for the others: three threads alike, one of them half as often."""
    looks = []
    for i in range(4000):
        waiters = [(1, 1, 0), (2, 1, 0)] + ([(3, 1, 0)] if i % 8 < 4 else [])
        looks.append(Look(0.01, 1, True, len(waiters), 9, 9, 0, waiters if i % 4 == 0 else None))
    found = numbers(looks)
    rows = {row[1]: row[6] for row in list(record.ROW.iter_unpack(state(looks)[record.ROWS :]))[found.held_rows :]}
    assert sum(rows.values()) == pytest.approx(found.waited, rel=0.01)
    assert found.waited == pytest.approx(2.5 * 40, rel=0.01)
    assert rows[1] == pytest.approx(rows[2], rel=0.001)
    assert rows[3] / rows[1] == pytest.approx(0.5, abs=0.05)


def test_a_provisional_name_is_credited_when_it_is_final() -> None:
    virtual = Virtual()
    read = reader(virtual)
    virtual.looks = [Look(0.02, 1, True, 0, 5, 1, pending=1)] * 20
    assert (found := read.read(0.4))
    assert found.held == ()
    virtual.looks = [look._replace(pending=0) for look in virtual.looks]
    assert (found := read.read(0.4))
    assert [time[:2] for time in found.held] == [("t5", "app.f1")]
    assert found.held[0].seconds == pytest.approx(found.blocked, abs=1e-6)


def test_more_holders_than_rows() -> None:
    """Those that are gone from the record, and were never seen in it, are in the rest."""
    virtual = Virtual()
    read = reader(virtual)
    virtual.looks = [Look(0.02, 4, True, 0, 1 + i % 250, 1 + i % 500) for i in range(3000)]
    assert (found := read.read(60.0))
    assert numbers(virtual.looks).held_rows == 192
    assert sum(time.seconds for time in found.held) + 4.0 > found.blocked  # candidates have no series yet
    assert (found := read.read(70.0))
    assert sum(time.seconds for time in found.held) == pytest.approx(found.blocked, abs=1e-3)
    assert len(found.held) <= 21


def test_slow_pace() -> None:
    """Looks that agree are worth as much at either pace, and the one that changes it a bit more, as fewer follow it."""
    looks = [Look(0.02, 1, True, 0)] * 64 + [Look(0.08, 4, True, 0)] * 100
    looks += [Look(0.08, 4, False, 0)] + [Look(0.02, 1, False, 0)] * 60
    left = 0.02 * 5 * (1 - (4 + 3 / 8) / 5)  # of the last that saw it locked
    assert numbers(looks).blocked == pytest.approx(63 * 0.02 + 101 * 0.08 + left, abs=1e-4)


@pytest.mark.parametrize("look", [(1.0,), ("a", 1, 1, 0, 0, 0, 0, 1.0, None)])
def test_bad_looks(look: tuple[object, ...]) -> None:
    from otel_gil import _recorder

    with pytest.raises(TypeError):
        _recorder.look([look], 1.0)


def test_sequence_of_points_is_bounded() -> None:
    for count in (1, 2, 100, 5000):
        found = numbers([Look(0.02, 1, i % 3 == 0, 0) for i in range(count)])
        assert 1 <= found.points <= 48
        data = state([Look(0.02, 1, i % 3 == 0, 0) for i in range(count)])
        history = list(record._HISTORY.iter_unpack(data[record.STATE.size : record.STATE.size + 16 * found.points]))
        assert all(sum(before) <= sum(after) for before, after in pairwise(history))
