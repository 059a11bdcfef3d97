"""Builds the recorder with sanitizers, and runs fuzz.c and stress.py."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "src" / "otel_gil" / "_native"

FUZZED = ("interpreter.c", "record.c", "stall.c", "sums.c", "symbols.c", "threads.c", "waiters.c")
"""What fuzz.c is linked with; it includes loop.c."""

# As the extension is compiled, but that a warning is an error.
FLAGS = ("-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
CHECKED = ("-g", "-O1", "-fno-omit-frame-pointer")
ASAN = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TSAN = ("-fsanitize=thread",)
LIBRARIES = ("-lm", "-lpthread")

GRACE = 120.0
"""Seconds that a part may take longer than it is asked to."""

SHOWN = 60
"""Lines of a part that failed."""


class Part(NamedTuple):
    """What was run.

    Attributes:
        name: what it is called.
        seconds: that it took.
        findings: what is wrong; empty where nothing is.
        output: what it wrote.
    """

    name: str
    seconds: float
    findings: str
    output: str


class Runner:
    """Builds and runs in a folder.

    Args:
        folder: for what is built, and for the records.
        seconds: for each part.
        seed: the first of the fuzzer's.
    """

    def __init__(self, folder: Path, seconds: float, seed: int = 1) -> None:
        self._folder = folder
        self._seconds = seconds
        self._seed = seed

    def fuzz(self) -> list[Part]:
        """fuzz.c with AddressSanitizer and UBSan, with memory of its own and that of the recorder."""
        own = self._compile("fuzz", (HERE / "fuzz.c", *(NATIVE / name for name in FUZZED)), ASAN)
        sources = (HERE / "fuzz.c", *(NATIVE / name for name in (*FUZZED, "memory.c")))
        real = self._compile("fuzz-real", sources, (*ASAN, "-DREAL_MEMORY"))
        return [
            self._fuzz("fuzz (memory of its own)", own, self._seconds / 2),
            self._fuzz("fuzz (process_vm_readv)", real, self._seconds / 2),
        ]

    def asan(self) -> list[Part]:
        """stress.py with AddressSanitizer and UBSan."""
        options = {"ASAN_OPTIONS": "detect_leaks=0"}
        return [self._stress("stress (address, undefined)", ASAN, "libasan.so", options)]

    def tsan(self) -> list[Part]:
        """stress.py with ThreadSanitizer, which allows no threads in a child of a fork: so without forks.

        Nothing is suppressed: CPython is not built with it, so what it does to its own memory is not seen.
        """
        options = {"TSAN_OPTIONS": "exitcode=66"}
        # Where addresses are random in more bits than it expects, it can't start.
        fixed = ("setarch", platform.machine(), "-R") if shutil.which("setarch") else ()
        return [self._stress("stress (thread)", TSAN, "libtsan.so", options, fixed, ("--no-forks",))]

    def _fuzz(self, name: str, program: Path, seconds: float) -> Part:
        records = self._folder / "records"
        records.mkdir(exist_ok=True)
        began = time.monotonic()
        seed, outputs = self._seed, ""
        while time.monotonic() < began + seconds:
            command = (str(program), str(seed), "10", str(records))
            code, output = self._run(command, {"UBSAN_OPTIONS": "print_stacktrace=1", "ASAN_OPTIONS": "detect_leaks=1"})
            outputs += output
            if code:
                return Part(name, time.monotonic() - began, f"seed {seed} ended with {code}: {first(output)}", output)
            seed += 1
        return Part(f"{name}, seeds {self._seed} to {seed - 1}", time.monotonic() - began, "", outputs)

    def _stress(
        self,
        name: str,
        sanitizer: Sequence[str],
        library: str,
        options: dict[str, str],
        prefix: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ) -> Part:
        extension = self._compile(
            "_recorder.so", tuple(NATIVE.glob("*.c")), (*sanitizer, "-shared", "-fPIC", *_of_python())
        )
        forker = self._compile("forker.so", (HERE / "forker.c",), ("-shared", "-fPIC", "-D_DEFAULT_SOURCE"))
        environ = {
            **options,
            "LD_PRELOAD": _printed_by_gcc(library),
            "PYTHONMALLOC": "malloc",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        script = (sys.executable, str(HERE / "stress.py"), str(extension), str(forker), str(self._seconds))
        began = time.monotonic()
        code, output = self._run((*prefix, *script, *arguments), environ)
        findings = [f"ended with {code}: {first(output)}"] if code else []
        findings += sorted(set(re.findall(r"SUMMARY: .*|.*runtime error: .*", output)))
        return Part(name, time.monotonic() - began, "\n    ".join(findings), output)

    def _compile(self, name: str, sources: Sequence[Path], flags: Sequence[str]) -> Path:
        target = self._folder / name
        includes = (f"-I{NATIVE}", *_of_python())
        subprocess.run(
            ("gcc", *FLAGS, *CHECKED, *includes, *flags, "-o", str(target), *map(str, sources), *LIBRARIES), check=True
        )
        return target

    def _run(self, command: Sequence[str], environ: dict[str, str]) -> tuple[int, str]:
        """In a session of its own, all of which is ended with it."""
        output = self._folder / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
            try:
                code = process.wait(self._seconds + GRACE)
            except subprocess.TimeoutExpired:
                code = -9
            finally:
                _end_session(process)
        return code, output.read_text(errors="replace")


def _end_session(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        pass
    process.wait()


def _of_python() -> tuple[str, ...]:
    return (f"-I{sysconfig.get_path('include')}",)


def _printed_by_gcc(library: str) -> str:
    found = subprocess.run(("gcc", f"-print-file-name={library}"), check=True, capture_output=True, text=True)
    path = found.stdout.strip()
    if not Path(path).is_absolute():
        raise SystemExit(f"gcc has no {library}")
    return path


_TELLS = re.compile(r"ERROR: |WARNING: ThreadSanitizer|runtime error|^fuzz: |Error\b|Timeout")


def first(output: str) -> str:
    """The line that tells most."""
    lines = output.splitlines()
    return next((line for line in lines if _TELLS.search(line)), lines[-1] if lines else "it wrote nothing")


def shown(output: str) -> str:
    """That line, and what comes after it."""
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if _TELLS.search(line)), max(len(lines) - SHOWN, 0))
    return "\n".join(lines[max(start - 3, 0) : start + SHOWN])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for, and prints what it found; 1 where that is anything."""
    from . import __doc__ as description

    parser = argparse.ArgumentParser(
        prog="python -m tests.native", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fuzz", action="store_true", help="nonsense")
    parser.add_argument("--asan", "--ubsan", action="store_true", help="stress, with AddressSanitizer and UBSan")
    parser.add_argument("--tsan", action="store_true", help="stress, with ThreadSanitizer")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each of them (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round of nonsense (%(default)s)")
    asked = parser.parse_args(arguments)
    parts: list[Part] = []
    with TemporaryDirectory() as folder:
        runner = Runner(Path(folder), asked.seconds, asked.seed)
        kinds: dict[str, Callable[[], list[Part]]] = {"fuzz": runner.fuzz, "asan": runner.asan, "tsan": runner.tsan}
        wanted = [kind for kind in kinds if getattr(asked, kind)] or list(kinds)
        for kind in wanted:
            for part in kinds[kind]():
                parts.append(part)
                print(f"{'FAILED' if part.findings else 'ok    '}  {part.seconds:5.1f} s  {part.name}", flush=True)
    print()
    for part in parts:
        if part.findings:
            print(f"{part.name}\n    {part.findings}\n{shown(part.output)}\n")
    failed = sum(bool(part.findings) for part in parts)
    print(
        f"CPython {platform.python_version()}: {f'{failed} of {len(parts)} found something' if failed else 'nothing found'}"
    )
    return 1 if failed else 0
