"""Runs one file of CPython's tests, and tells what became of each test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree

WHOLE = "(all of it)"
"""The name under which the outcome of the whole file stands among those of its tests."""

PASSED, SKIPPED, FAILED, ENVIRONMENT_CHANGED = "passed", "skipped", "failed", "environment changed"

_EXITS = {0: PASSED, 2: FAILED, 3: ENVIRONMENT_CHANGED, 4: SKIPPED}  # of regrtest; 4: no test ran


class Ran(NamedTuple):
    """What became of one file.

    Attributes:
        outcomes: by test, and of `WHOLE`.
        messages: by test that failed.
        output: what it has written.
    """

    outcomes: Mapping[str, str]
    messages: Mapping[str, str]
    output: str


def run(python: Path, file: str, timeout: float, only: Iterable[str] = (), ignored: Iterable[str] = ()) -> Ran:
    """Run a file.

    Args:
        python: the interpreter to run it with.
        file: its name, as in `test_threading`.
        timeout: seconds after which it is ended.
        only: the tests to run; all where there is none.
        ignored: patterns of tests not to run.
    """
    with TemporaryDirectory(prefix="otel-gil-") as folder:
        report = Path(folder) / "report.xml"
        output = Path(folder) / "output"
        command: list[str | Path] = [python, "-m", "test", "--fail-env-changed", "--junit-xml", report, file]
        for test in only:
            command += ["-m", test]
        for pattern in ignored:
            command += ["-i", pattern]
        environment = {name: value for name, value in os.environ.items() if not re.match("OTEL|PYTHON", name)}
        with output.open("wb") as written:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                start_new_session=True,
            )
            try:
                whole = _exit(process.wait(timeout))
            except subprocess.TimeoutExpired:
                whole = "timed out"
            finally:
                _end(process)
        outcomes, messages = parse(report.read_text()) if report.exists() and report.stat().st_size else ({}, {})
        return Ran({**outcomes, WHOLE: whole}, messages, output.read_text(errors="replace"))


def parse(report: str) -> tuple[dict[str, str], dict[str, str]]:
    """The outcomes, and the messages of failures, in a report in JUnit's format.

    A test with subtests has several, of which the worst counts.
    """
    outcomes: dict[str, str] = {}
    messages: dict[str, str] = {}
    order = (SKIPPED, PASSED, FAILED)
    for case in ElementTree.fromstring(report).iter("testcase"):
        found = {child.tag for child in case}
        outcome = FAILED if found & {"failure", "error"} else SKIPPED if "skipped" in found else PASSED
        name = case.get("name", "")
        if outcome == FAILED:
            messages[name] = "".join(case.itertext()).strip()
        outcomes[name] = max(outcome, outcomes.get(name, outcome), key=order.index)
    return outcomes, messages


def _exit(code: int) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return _EXITS.get(code, f"exit code {code}")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
