from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from otel_gil import __version__
from otel_gil._cli import main


def test_console_script() -> None:
    (script,) = entry_points(group="console_scripts", name="otel-gil")
    assert script.load() is main


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["demo", "--help"], 0),
        (["doctor", "--help"], 0),
        (["top", "--help"], 0),
        (["dashboard", "--help"], 0),
        (["rules", "--help"], 0),
        ([], 2),
        (["frobnicate"], 2),
        (["demo", "--seconds", "0"], 2),
        (["demo", "--seconds", "nan"], 2),
        (["demo", "--seconds", "long"], 2),
        (["demo", "--port", "65536"], 2),
        (["demo", "--port", "-1"], 2),
        (["dashboard", "--output"], 2),
        (["top"], 2),
        (["top", "--"], 2),
        (["top", "--interval", "1"], 2),
        (["top", "--interval", "0.09", "--", "true"], 2),
        (["top", "--interval", "inf", "--", "true"], 2),
        (["top", "--frobnicate", "--", "true"], 2),
    ],
)
def test_arguments(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == code
    captured = capsys.readouterr()
    assert bool(captured.out) == (code == 0)
    assert bool(captured.err) == (code != 0)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"otel-gil {__version__}\n"


@pytest.mark.parametrize(("command", "code"), [("demo", 3), ("doctor", 4)])
def test_commands(command: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from otel_gil._cli import demo, doctor

    given: list[object] = []

    def run_demo(seconds: float, port: int) -> int:
        given.extend([seconds, port])
        return 3

    monkeypatch.setattr(demo, "run", run_demo)
    monkeypatch.setattr(doctor, "run", lambda: 4)
    assert main([command]) == code
    assert given == ([38.0, 0] if command == "demo" else [])


def test_options_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    from otel_gil._cli import demo

    monkeypatch.setattr(demo, "run", lambda seconds, port: seconds == 4.5 and port == 9464)
    assert main(["demo", "--seconds", "4.5", "--port", "9464"])


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["python", "app.py"], (["python", "app.py"], 1.0)),
        (["--", "python", "app.py"], (["python", "app.py"], 1.0)),
        (["--interval", "0.1", "python", "-c", "pass"], (["python", "-c", "pass"], 0.1)),
        (
            ["--interval=2.5", "--", "python", "-m", "app", "--interval", "9"],
            (["python", "-m", "app", "--interval", "9"], 2.5),
        ),
        (["python", "--version"], (["python", "--version"], 1.0)),
        (["env", "--", "python", "--help"], (["env", "--", "python", "--help"], 1.0)),
        (["--", "--odd", "--interval", "9"], (["--odd", "--interval", "9"], 1.0)),
    ],
)
def test_program_of_top(arguments: list[str], given: tuple[list[str], float], monkeypatch: pytest.MonkeyPatch) -> None:
    from otel_gil._cli import top

    monkeypatch.setattr(top, "run", lambda *run: 5 if run == given else 6)
    assert main(["top", *arguments]) == 5


def test_a_command_imports_only_its_own() -> None:
    code = "import sys, otel_gil._cli; print([c for c in ('demo', 'doctor', 'monitoring', 'top') if f'otel_gil._cli.{c}' in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
