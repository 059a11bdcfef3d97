"""`make cpython-tests`: see `tests.cpython`."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from .compare import reason, worse
from .environments import MODES, Mode, make
from .expected import EXPECTED, NOT_RUN
from .regrtest import PASSED, SKIPPED, WHOLE, Ran, run

# The slowest first, so that they do not come last, each alone.
FILES = (
    *(
        "test_multiprocessing_spawn",
        "test_concurrent_futures",
        "test_asyncio",
        "test_multiprocessing_fork",
        "test_capi",
    ),
    *("test_subprocess", "test_threading", "test_signal", "test_interpreters", "test_faulthandler", "test_os"),
    *(
        "test_socketserver",
        "test_tracemalloc",
        "test_sys",
        "test_gc",
        "test_threadsignals",
        "test_thread",
        "test_fork1",
    ),
    *("test_threading_local", "test_atexit", "test_weakref", "test_exceptions"),
    *("test_external_inspection", "test_remote_pdb"),
)
SHORT = (
    *("test_threading", "test_signal", "test_faulthandler", "test_threadsignals", "test_thread", "test_fork1"),
    *("test_threading_local", "test_atexit"),
    # Before, it hangs with the SDK alone.
    *(("test_interpreters",) if sys.version_info >= (3, 13) else ()),
)

_AT_ONCE = 2
_LINES = 40  # of what is told about a difference
_TIMEOUT = 900.0  # seconds for a file, far more than the slowest takes
_AGAIN = 5
"""Times that a test is run again, in both, whose outcome differs: on a busy machine some fail by themselves."""


def main() -> int:
    """Run, compare, report. The exit code is 1 where there is a difference that is not expected."""
    parser = argparse.ArgumentParser(prog="make cpython-tests", description=__doc__)
    parser.add_argument("--short", action="store_true", help="only a selection, of about three minutes")
    parser.add_argument("--logs", type=Path, help="a folder for what the tests write")
    parser.add_argument("files", nargs="*", help="the files of tests, as test_threading; default: those of interest")
    arguments = parser.parse_args()
    files = arguments.files or [file for file in (SHORT if arguments.short else FILES) if _exists(file)]
    if importlib.util.find_spec("test.libregrtest") is None:
        sys.stderr.write("This CPython has no tests: Debian has them in libpython3.X-testsuite\n")
        return 2
    # What a shell starts in the background ignores Ctrl-C, and so do its children, which some tests do not bear.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begin = time.monotonic()
    with TemporaryDirectory(prefix="otel-gil-") as folder:
        pythons = {mode: make(Path(folder) / mode, mode) for mode in MODES}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            jobs = [(file, mode) for file in files for mode in MODES]
            results = dict(
                zip(
                    jobs,
                    pool.map(lambda job: run(pythons[job[1]], job[0], _TIMEOUT, ignored=NOT_RUN), jobs),
                    strict=True,
                )
            )
        if arguments.logs:
            for (file, mode), ran in results.items():
                arguments.logs.mkdir(parents=True, exist_ok=True)
                (arguments.logs / f"{file}-{mode}.txt").write_text(ran.output)
        return _report(files, results, pythons, begin)


def _report(files: list[str], results: dict[tuple[str, Mode], Ran], pythons: dict[Mode, Path], begin: float) -> int:
    outcomes = [outcome for (_, mode), ran in results.items() if mode == "gil" for outcome in ran.outcomes.values()]
    changed_by_the_sdk = unexpected = 0
    for file in files:
        plain, sdk, gil = (results[file, mode].outcomes for mode in MODES)
        changed_by_the_sdk += len(worse(plain, sdk))
        for test, (old, new) in sorted(worse(sdk, gil).items()):
            name = file if test == WHOLE else test
            why = reason(f"{name}: {new}", EXPECTED)
            if why is None:
                verdict, is_ours = _again(file, test, pythons)
                unexpected += is_ours
            else:
                verdict = f"expected: {why}"
            print(f"{name}: {old} with the SDK alone, {new} with otel-gil; {verdict}", flush=True)
            if why is None and is_ours:
                print(_excerpt(results[file, "gil"], test), flush=True)
    print(
        f"CPython {platform.python_version()}'s own tests with otel-gil: {outcomes.count(PASSED)} passed, "
        f"{outcomes.count(SKIPPED)} skipped; {changed_by_the_sdk} changed by the SDK alone, {unexpected} changed by "
        f"otel-gil and not expected; {time.monotonic() - begin:.0f} s"
    )
    return 1 if unexpected else 0


def _again(file: str, test: str, pythons: dict[Mode, Path]) -> tuple[str, bool]:
    """Run a test again whose outcome is worse with otel-gil. Gives what came of it, and whether that is our doing."""
    once = partial(run, file=file, timeout=_TIMEOUT, only=() if test == WHOLE else [test], ignored=NOT_RUN)
    times = 1 if test == WHOLE else _AGAIN
    failed = {
        mode: sum(once(pythons[mode]).outcomes.get(test) not in {PASSED, SKIPPED} for _ in range(times))
        for mode in ("sdk", "gil")
    }
    counts = f"again {failed['gil']} of {times} times with otel-gil, {failed['sdk']} with the SDK alone"
    # A crash or a hang of the whole file is never waved through: see `expected.py` for those of CPython's own.
    return counts, failed["sdk"] == 0 and (test == WHOLE or failed["gil"] > 0)


def _excerpt(ran: Ran, test: str) -> str:
    """What there is to read about a test, or about its whole file."""
    lines = ran.messages.get(test, ran.output).splitlines()[-_LINES:]
    return "".join(f"  | {line}\n" for line in lines)


def _exists(file: str) -> bool:
    return importlib.util.find_spec(f"test.{file}") is not None


if __name__ == "__main__":
    sys.exit(main())
