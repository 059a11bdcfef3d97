"""What is built from this repository, and what an installation of it alone can do. pip gets what it requires."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from otel_gil import __version__

ROOT = Path(__file__).parent.parent
NAME = f"otel_gil-{__version__}"


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build with the backend that pyproject.toml names, which needs nothing but what is installed."""
    command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", folder]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def source_files(folder: str) -> set[str]:
    """The files of a folder of this repository, but for what Python and tools leave there."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not re.search(r"/(__pycache__|\.[^/]+)(/|$)", f"/{path.relative_to(ROOT)}")
    }


def test_wheel(wheel: Path) -> None:
    assert wheel.name == f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    package = {path.removeprefix("src/") for path in source_files("src")}
    information = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert files == package | {f"{NAME}.dist-info/{name}" for name in information}
    assert {"otel_gil/py.typed", "otel_gil/monitoring/dashboard.json", "otel_gil/monitoring/rules.yaml"} <= files
    assert {Path(name).suffix for name in package} == {".py", ".typed", ".json", ".yaml"}


def test_sdist(sdist: Path) -> None:
    assert sdist.name == f"{NAME}.tar.gz"
    with tarfile.open(sdist) as archive:
        files = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    folders = {path for folder in ("src", "tests", "examples", "benchmarks", "docs") for path in source_files(folder)}
    # The build backend adds .gitignore and PKG-INFO.
    top = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "pyproject.toml"}
    assert files == folders | top | {".gitignore", "PKG-INFO"}


def test_wheel_of_sdist(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    rebuilt = build("wheel", tmp_path / NAME, tmp_path / "wheel")
    with zipfile.ZipFile(rebuilt) as archive, zipfile.ZipFile(wheel) as expected:
        assert {i.filename: i.CRC for i in archive.infolist()} == {i.filename: i.CRC for i in expected.infolist()}


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
