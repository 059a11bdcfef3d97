"""What differs between two runs of the same tests."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch

from .regrtest import ENVIRONMENT_CHANGED, FAILED, PASSED, SKIPPED, WHOLE

ABSENT = "did not run"

_ENDED = 3


def worse(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The tests whose outcome is worse after, with both outcomes.

    What follows from others is left out: the outcome of a file of which a test fails, and that of the tests which a file
    has not come to that ended early.
    """
    found = {}
    for name in before.keys() | after.keys():
        old, new = before.get(name, ABSENT), after.get(name, ABSENT)
        if _rank(new) > _rank(old):
            found[name] = (old, new)
    if after.get(WHOLE) == FAILED and found.keys() - {WHOLE}:
        found.pop(WHOLE, None)
    if _rank(after.get(WHOLE, PASSED)) == _ENDED:
        found = {name: outcomes for name, outcomes in found.items() if outcomes[1] != ABSENT}
    return found


def reason(test: str, expected: Mapping[str, str]) -> str | None:
    """Why this test is expected to fail; None where it is not."""
    return next((why for pattern, why in expected.items() if fnmatch(test, pattern)), None)


def _rank(outcome: str) -> int:
    # A test that does not run any more is a difference, and so is a failure that has become a crash or a hang.
    return {PASSED: 0, SKIPPED: 1, FAILED: 2, ENVIRONMENT_CHANGED: 2, ABSENT: 2}.get(outcome, _ENDED)
