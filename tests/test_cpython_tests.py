"""`make cpython-tests`: what it takes for a difference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cpython.compare import ABSENT, reason, worse
from cpython.environments import MODES, Mode, make
from cpython.regrtest import WHOLE, parse, run

REPORT = """<testsuites tests="5"><testsuite>
<testcase name="test.test_x.T.passes" status="run" result="completed" time="0.1"/>
<testcase name="test.test_x.T.fails" status="run"><failure type="AssertionError">no</failure></testcase>
<testcase name="test.test_x.T.raises" status="run"><error type="OSError">no</error></testcase>
<testcase name="test.test_x.T.skipped" status="run"><skipped>why</skipped></testcase>
<testcase name="test.test_x.T.fails" status="run"/>
</testsuite></testsuites>"""


def test_parse() -> None:
    outcomes, messages = parse(REPORT)
    assert messages == {"test.test_x.T.fails": "no", "test.test_x.T.raises": "no"}
    assert outcomes == {
        "test.test_x.T.passes": "passed",
        "test.test_x.T.fails": "failed",  # as one of its subtests has
        "test.test_x.T.raises": "failed",
        "test.test_x.T.skipped": "skipped",
    }


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"a": "passed"}, {"a": "passed"}, {}),
        ({"a": "failed"}, {"a": "failed"}, {}),
        ({"a": "failed"}, {"a": "passed"}, {}),
        ({"a": "passed"}, {"a": "failed"}, {"a": ("passed", "failed")}),
        ({"a": "passed"}, {"a": "skipped"}, {"a": ("passed", "skipped")}),
        ({"a": "passed"}, {}, {"a": ("passed", ABSENT)}),
        ({}, {"a": "passed"}, {}),
        ({WHOLE: "passed"}, {WHOLE: "timed out"}, {WHOLE: ("passed", "timed out")}),
        ({WHOLE: "passed"}, {WHOLE: "ended by SIGABRT"}, {WHOLE: ("passed", "ended by SIGABRT")}),
        ({WHOLE: "failed"}, {WHOLE: "ended by SIGABRT"}, {WHOLE: ("failed", "ended by SIGABRT")}),
        ({WHOLE: "passed"}, {WHOLE: "environment changed"}, {WHOLE: ("passed", "environment changed")}),
        ({"a": "passed", WHOLE: "passed"}, {WHOLE: "timed out"}, {WHOLE: ("passed", "timed out")}),
        # Where a test fails, its file does, too.
        ({"a": "passed", WHOLE: "passed"}, {"a": "failed", WHOLE: "failed"}, {"a": ("passed", "failed")}),
    ],
)
def test_worse(before: dict[str, str], after: dict[str, str], found: dict[str, tuple[str, str]]) -> None:
    assert worse(before, after) == found


def test_reason() -> None:
    expected = {"test.test_x.*: failed": "it counts threads"}
    assert reason("test.test_x.T.counts: failed", expected) == "it counts threads"
    assert reason("test.test_x.T.counts: timed out", expected) is None
    assert reason("test.test_y.T.counts: failed", expected) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the environments are POSIX's")
@pytest.mark.parametrize("mode", MODES)
def test_environments(mode: Mode, tmp_path: Path) -> None:
    """That each interpreter begins as it should is checked when they are made. It writes nothing, and fails not."""
    python = make(tmp_path / mode, mode)
    done = subprocess.run([python, "-c", "print(1)"], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1\n", "")


FAKE = """#!/bin/sh
cat > "$5" <<'END'
{report}
END
{end}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="runs a shell script")
@pytest.mark.parametrize(
    ("end", "whole"),
    [
        ("exit 0", "passed"),
        ("exit 2", "failed"),
        ("exit 3", "environment changed"),
        ("exit 9", "exit code 9"),
        ("kill -ABRT $$", "ended by SIGABRT"),
        ("sleep 60 & wait", "timed out"),
    ],
)
def test_run(end: str, whole: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(FAKE.format(report=REPORT, end=end))
    python.chmod(0o755)
    ran = run(python, "test_x", timeout=1.0 if whole == "timed out" else 30.0)
    assert ran.outcomes == {**parse(REPORT)[0], WHOLE: whole}
