"""`otel-gil doctor`: whether and how the GIL can be measured with this interpreter, machine and environment."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import sysconfig
import threading
import time
from typing import TYPE_CHECKING, Any

from otel_gil import _config, _samplers
from otel_gil._samplers import disabled, observer
from otel_gil.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable


_PACKAGES = {
    "opentelemetry-sdk": "opentelemetry-sdk",
    "opentelemetry-distro": "opentelemetry-distro",
    "opentelemetry-exporter-prometheus": "'otel-gil[prometheus]'",
    "gilknocker": "'otel-gil[gilknocker]'",
}
"""What is of use if it is installed, and what pip calls it."""

_SIGNALS = ("metrics", "traces", "logs")

_INTERVAL = {"OTEL_METRIC_EXPORT_INTERVAL": "60000"}
_EXPORTERS: dict[str, dict[str, str]] = {
    "prometheus": {"OTEL_EXPORTER_PROMETHEUS_HOST": "localhost", "OTEL_EXPORTER_PROMETHEUS_PORT": "9464"},
    "otlp": {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "the exporter's"} | _INTERVAL,
    "console": _INTERVAL,
}
"""The variables that matter to an exporter of metrics, and their defaults."""


def run() -> int:
    """Say all, and return the exit code: 0 where the GIL can be measured."""
    _section("otel-gil " + __version__, interpreter())
    _section("Samplers", samplers())
    _section("Configuration", configuration())
    _section("Packages", packages())
    reading, problem = measure()
    problem = problem or switched_off()
    _section("Reading", reading)
    if unexported := [signal for signal in _SIGNALS if missing_exporters(signal)]:
        asked = ", ".join(f"OTEL_{signal.upper()}_EXPORTER" for signal in unexported)
        _say(f"opentelemetry-instrument would export nothing, as an exporter is not installed: see {asked} above.")
    _say(f"The GIL is not measured here: {problem}" if problem else "The GIL can be measured here.")
    return 1 if problem else 0


def interpreter() -> Iterable[tuple[str, str]]:
    """What runs here."""
    yield "Python", f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}"
    yield "build", "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else "with a GIL"
    yield "GIL", "disabled" if disabled.unavailable() is None else "enabled"
    yield "recorder", recorder()
    yield "switch interval", f"{sys.getswitchinterval() * 1000:g} ms"
    yield "platform", platform.platform()


def recorder() -> str:
    """Whether the extension was built, and has proved that it sees this interpreter; if not, why."""
    if not observer.built():
        return "not built"
    if observer.unavailable():
        return "built, but can't be used: see the sampler 'observer'"
    return "built, and sees who holds the GIL"


def samplers() -> Iterable[tuple[str, str]]:
    """Which samplers there are, and which of them `auto` takes."""
    chosen, _ = _samplers.choose()
    for name, unavailable in _samplers.UNAVAILABLE.items():
        reason = unavailable()
        if name == chosen:
            yield name, "available, taken by auto"
        else:
            yield name, f"not available: {reason}" if reason else f"available, but auto prefers {chosen}"


def configuration() -> Iterable[tuple[str, str]]:
    """What the environment asks for."""
    for option in _config.OPTIONS:
        yield option.variable, resolve(option)[1]
    yield _variable("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "none")
    yield _variable("OTEL_SDK_DISABLED", "false")
    for signal in _SIGNALS:
        variable, value = _variable(f"OTEL_{signal.upper()}_EXPORTER", _default_exporter())
        missing = missing_exporters(signal)
        if missing:
            value += f"; {', '.join(missing)} is not installed, so nothing is exported: install it, or set 'none'"
        yield variable, value
    relevant: dict[str, str] = {}
    for name in _exporters("metrics"):
        relevant |= _EXPORTERS.get(name.partition("_")[0], {})
    for name, default in relevant.items():
        yield _variable(name, default)


def resolve(option: _config.Option) -> tuple[Any, str]:
    """The value of an option, and that in words; one that can't be used is not logged, but in the words."""
    text = os.environ.get(option.variable, "").strip()
    value, why = option.default, "(default)"
    try:
        if text:
            value, why = option.parse(text), "(set)"
    except ValueError as error:
        why += f", as {text!r} {error}"
    return value, f"{_words(value)} {why}"


def packages() -> Iterable[tuple[str, str]]:
    """What is installed."""
    for name, requirement in _PACKAGES.items():
        yield name, _version(name) or f"not installed (pip install {requirement})"


def measure() -> tuple[list[tuple[str, str]], str | None]:
    """A reading of a second or some samples of this process, which is idle, and why there is none."""
    sampler, interval, window, *_ = (resolve(option)[0] for option in _config.OPTIONS)
    if sampler == "none":
        return [], f"{_config.SAMPLER.variable} is 'none'; unset it"
    waits: list[float] = []
    recorded = threading.Event()

    def record(more: Iterable[float]) -> None:
        waits.extend(more)
        recorded.set()

    created = _samplers.create(sampler, interval and interval / 1000, window / 1000, record)
    if created is None:
        reasons = _samplers.choose()[1]
        return [], "no sampler is available; " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    created.start()
    try:
        time.sleep(max(1.0, 8 * (interval or 0.0) / 1000))  # samples are taken at random: a first one must be sure
        recorded.wait(1.0)  # waits come in batches, every 1.5 s or earlier
        snapshot = created.read()
    finally:
        created.stop()
    if snapshot is None:
        return [], f"the sampler '{sampler}' gave no reading; set {_config.SAMPLER.variable} to another"
    used = f"{_samplers.choose()[0]} (auto)" if sampler == "auto" else sampler
    return [
        ("sampler", used),
        ("observed", f"{snapshot.blocked + snapshot.free:.2f} s of this process, which was idle"),
        ("contention", f"{snapshot.contention:.2f}"),
        ("waits", f"{len(waits)}, the longest {max(waits) * 1000:.1f} ms" if waits else "none recorded"),
    ], None


def switched_off() -> str | None:
    """Which variable keeps `opentelemetry-instrument` from measuring; None where there is none."""
    excluded = {name.strip() for name in os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}
    if found := excluded & {"gil", "*"}:
        return f"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS has {found.pop()!r}; take it out"
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return "OTEL_SDK_DISABLED is 'true'; unset it"
    return None


def missing_exporters(signal: str) -> list[str]:
    """The exporters asked for that are not installed. For want of any one of them the SDK exports nothing at all."""
    installed = {found.name for found in importlib.metadata.entry_points(group=f"opentelemetry_{signal}_exporter")}
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").partition("/")[0]
    return [
        name for name in _exporters(signal) if (f"otlp_proto_{protocol}" if name == "otlp" else name) not in installed
    ]


def _exporters(signal: str) -> list[str]:
    value = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER") or _default_exporter()
    return [] if value.strip().lower() == "none" else [name.strip() for name in value.split(",")]


def _default_exporter() -> str:
    return "otlp" if _version("opentelemetry-distro") else "none"


def _words(value: Any) -> str:
    if value is None:
        return "the sampler's"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g} ms" if isinstance(value, float) else str(value)


def _variable(name: str, default: str) -> tuple[str, str]:
    value = os.environ.get(name, "")
    # What is said here is pasted into issues, and a password in a URL must not be.
    shown = re.sub(r"//[^/]*@", "//***@", value)
    return name, f"{shown} (set)" if value else f"{default} (default)"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _section(title: str, rows: Iterable[tuple[str, str]]) -> None:
    rows = list(rows)
    if rows:
        width = max(len(label) for label, _ in rows)
        _say("\n".join([title, *(f"  {label:<{width}}  {value}" for label, value in rows), ""]))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
