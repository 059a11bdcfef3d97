"""What is built from this repository, and what an installation of it alone can do. pip gets what it requires."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from otel_gil import __version__

ROOT = Path(__file__).parent.parent
NAME = f"otel_gil-{__version__}"
EXTENSION = f"otel_gil/_recorder{sysconfig.get_config_var('EXT_SUFFIX')}"
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
BUILDS = (
    sys.platform != "win32" and shutil.which(COMPILER) and (Path(sysconfig.get_path("include")) / "Python.h").exists()
)


def build(kind: str, source: Path, folder: Path, **environment: str) -> Path:
    """Build with the backend that pyproject.toml names, which needs nothing but what is installed."""
    program = f"import sys, setuptools.build_meta as backend; backend.build_{kind}(sys.argv[1])"
    command: list[str | Path] = [sys.executable, "-c", program, folder]
    variables = {**os.environ, **environment}
    subprocess.run(command, cwd=source, env=variables, check=True, capture_output=True, timeout=300)
    (built,) = folder.iterdir()
    return built


def is_source(path: Path) -> bool:
    """Not what Python, tools and builds leave."""
    return not re.search(r"/(__pycache__|\.[^/]+|[^/]+\.egg-info)(/|$)|\.so$", f"/{path.relative_to(ROOT)}")


def source_files(folder: str) -> set[str]:
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and is_source(path))
    return {str(path.relative_to(ROOT)) for path in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this repository, in which it does no harm to build, after builds with other interpreters."""
    folder = tmp_path_factory.mktemp("tree") / "tree"
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "*.so", "build", "dist", "messages")
    shutil.copytree(ROOT, folder, ignore=unwanted)
    (folder / "src" / "otel_gil" / "_recorder.cpython-39-x86_64-linux-gnu.so").touch()
    (folder / "src" / "otel_gil" / "__pycache__").mkdir()
    (folder / "src" / "otel_gil" / "__pycache__" / "version.cpython-39.pyc").touch()
    return folder


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def files_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def pure_files() -> set[str]:
    """Those of a wheel without the extension."""
    package = {path.removeprefix("src/") for path in source_files("src") if "/_native/" not in path}
    information = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    return package | {f"{NAME}.dist-info/{name}" for name in information}


def test_wheel(wheel: Path) -> None:
    version = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert re.fullmatch(rf"{NAME}-{version}-{version}t?-\w+\.whl", wheel.name)
    files = files_in(wheel)
    assert files == pure_files() | ({EXTENSION} if BUILDS else set())
    assert {"otel_gil/py.typed", "otel_gil/monitoring/dashboard.json", "otel_gil/monitoring/rules.yaml"} <= files
    assert {Path(name).suffix for name in pure_files() if "dist-info" not in name} <= {
        *(".py", ".pyi", ".typed", ".json", ".yaml"),
    }


def test_wheel_without_a_compiler(sdist: Path, tmp_path: Path) -> None:
    wheel = build("wheel", unpacked(sdist, tmp_path), tmp_path / "wheel", CC=str(tmp_path / "none"))
    assert files_in(wheel) == pure_files()


@pytest.mark.skipif(not BUILDS, reason="there is no compiler, or no headers of Python")
def test_wheel_without_headers_of_python(sdist: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(
        '#!/bin/sh\nfor argument; do shift; case $argument in -I*python*) ;; *) set -- "$@" "$argument";; esac; done\n'
        f'exec {COMPILER} "$@"\n'
    )
    compiler.chmod(0o755)
    wheel = build("wheel", unpacked(sdist, tmp_path), tmp_path / "wheel", CC=str(compiler))
    assert files_in(wheel) == pure_files()


def test_all_sources_are_of_the_extension() -> None:
    listed = re.findall(r'"(src/otel_gil/_native/\w+\.[ch])"', (ROOT / "pyproject.toml").read_text())
    assert sorted(listed) == sorted(path for path in source_files("src") if "/_native/" in path)


def test_sdist(sdist: Path) -> None:
    assert sdist.name == f"{NAME}.tar.gz"
    with tarfile.open(sdist) as archive:
        files = {member.name.removeprefix(f"{NAME}/") for member in archive.getmembers() if member.isfile()}
    folders = ("src", "tests", "examples", "benchmarks", "docs", "tools")
    top = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "MANIFEST.in", "pyproject.toml"}
    expected = top.union(*(source_files(folder) for folder in folders))
    # The build backend adds these.
    added = {"PKG-INFO", "setup.cfg"}
    assert {name for name in files if "/otel_gil.egg-info/" not in name} == expected | added


def unpacked(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / NAME


def test_wheel_of_sdist(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    rebuilt = build("wheel", unpacked(sdist, tmp_path), tmp_path / "wheel")
    assert files_in(rebuilt) == files_in(wheel)
    # Compilers write down the folder.
    differing = {EXTENSION, f"{NAME}.dist-info/RECORD"}
    with zipfile.ZipFile(rebuilt) as archive, zipfile.ZipFile(wheel) as expected:
        sums, expected_sums = ({i.filename: i.CRC for i in a.infolist()} for a in (archive, expected))
    assert {name for name in sums if sums[name] != expected_sums[name]} <= differing


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment in which nothing is installed but the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "install", "--only-binary", ":all:", "--no-compile", wheel], check=True, timeout=120)
    return folder / "bin"


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not re.match("OTEL|PYTHON", name)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_installed_alone(scripts: Path, tmp_path: Path) -> None:
    listing = "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()))"
    installed = run(scripts / "python", "-c", listing, folder=tmp_path).stdout.split()
    assert {"otel-gil", "opentelemetry-api", "opentelemetry-instrumentation"} <= set(installed)
    assert not {"opentelemetry-sdk", "prometheus_client", "pytest"} & set(installed)
    done = run(scripts / "otel-gil", "doctor", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "The GIL can be measured here." in done.stdout
    assert "opentelemetry-sdk" in done.stdout


@pytest.mark.skipif(
    not BUILDS or sys.platform != "linux" or bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="the extension is for Linux and interpreters with a GIL",
)
def test_extension_installed_alone(scripts: Path, tmp_path: Path) -> None:
    done = run(scripts / "python", ROOT / "tools" / "smoke.py", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "records CPython" in done.stdout


@pytest.mark.parametrize(("command", "file"), [("dashboard", "dashboard.json"), ("rules", "rules.yaml")])
def test_files_installed_alone(command: str, file: str, scripts: Path, tmp_path: Path) -> None:
    done = run(scripts / "otel-gil", command, folder=tmp_path)
    assert done.stderr == ""
    assert done.stdout == (ROOT / "src" / "otel_gil" / "monitoring" / file).read_text()


def test_top_installed_alone(scripts: Path, tmp_path: Path) -> None:
    done = run(scripts / "otel-gil", "top", "--", scripts / "python", "-c", "exit(3)", folder=tmp_path)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "exit code 3" in done.stdout


def test_it_says_what_the_demo_needs(scripts: Path, tmp_path: Path) -> None:
    done = run(scripts / "otel-gil", "demo", folder=tmp_path)
    assert done.returncode == 1
    assert "pip install 'otel-gil[prometheus]'" in done.stderr
