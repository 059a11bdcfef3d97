"""The dashboard's queries and the rules, over what a real Prometheus scrapes from real processes."""

from __future__ import annotations

import json
import math
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

import otel_gil
from otel_gil._cli.monitoring import text
from otel_gil._samplers import observer

from .processes import applications, free_port, python, wait_for
from .prometheus import Prometheus, Series, Target, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = Path(otel_gil.__file__).parent / "monitoring" / "rules.yaml"
EXAMPLE = Path(__file__).parents[2] / "examples" / "grafana" / "changing_load.py"
RANGE = 12  # seconds of queries of a range, and what rates are taken over in them: about one cycle of the example

DASHBOARD = json.loads(text("dashboard"))
(ROW,) = (panel for panel in DASHBOARD["panels"] if panel["type"] == "row")
TARGETS = [(panel, target) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
# What is below the row needs the observer, which this Python may not have: then these queries are not tried.
OBSERVED = {p["title"]: target for p, target in TARGETS if p["gridPos"]["y"] > ROW["gridPos"]["y"]}
QUERIES = {f"{p['title']} {target['refId']}": target for p, target in TARGETS if p["title"] not in OBSERVED}
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

UNAVAILABLE = observer.unavailable()
with_observer = pytest.mark.skipif(UNAVAILABLE is not None, reason=f"no observer: {UNAVAILABLE}")

# The jobs: what runs there, and the alert that it is bound to raise in time.
APPS = {
    "changing": (sys.executable, str(EXAMPLE), "2"),
    "saturated": python("hot_loop"),
    "mute": python("muting"),
}
ALERTS = {
    ("CPythonGILLongWaits", "changing"),
    ("CPythonGILSaturated", "saturated"),
    ("CPythonGILMetricsAbsent", "mute"),
}
if UNAVAILABLE is None:
    APPS["observed"] = python("cycle", "1.5", "1")
    ALERTS.add(("CPythonGILStall", "observed"))
# One of them has another sampler than auto takes, where that is the observer.
SAMPLERS = {"saturated": {"OTEL_PYTHON_GIL_SAMPLER": "poisson"}}


@pytest.fixture(scope="module")
def prometheus() -> Iterator[Prometheus]:
    """Has scraped them all for a while, and evaluated the rules."""
    targets = {name: Target(free_port(), 1) for name in APPS}
    with serving(targets, RULES) as prometheus, applications() as start:
        running = {
            name: start(*command, **targets[name].exporter, **SAMPLERS.get(name, {})) for name, command in APPS.items()
        }

        def recorded() -> bool:
            return prometheus.query("instance:cpython_gil_contention:ratio_rate5m").keys() == APPS.keys()

        def alerts() -> set[tuple[str, str]]:
            return {(s.labels["alertname"], s.labels["job"]) for s in prometheus.series("ALERTS")}

        wait_for(recorded, "the rules to be evaluated for each process", 60)
        wait_for(lambda: running["mute"].stdout, "it to listen to signals")
        running["mute"].signal(signal.SIGUSR1)
        wait_for(lambda: alerts() >= ALERTS, f"the alerts {ALERTS}", 60)
        yield prometheus


def substitute(query: str, **values: str) -> str:
    """What Grafana sends: a chosen value, or that of All, for each variable."""
    for name in ("job", "instance"):
        query = query.replace(f"${name}", values.get(name, VARIABLES[name]["allValue"]))
    query = query.replace("$__rate_interval", f"{RANGE}s")
    assert "$" not in query
    return query


def ask(prometheus: Prometheus, target: dict[str, Any], **values: str) -> list[Series]:
    """What a panel gets: the present, or a range."""
    query = substitute(target["expr"], **values)
    return prometheus.series(query) if target.get("instant") else prometheus.series_of_range(query, RANGE)


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("job", [None, "(changing|saturated)", "changing"])
def test_every_query_returns_series(prometheus: Prometheus, name: str, job: str | None) -> None:
    target = QUERIES[name]
    found = ask(prometheus, target, **{"job": job} if job else {})
    assert found
    assert all(any(map(math.isfinite, series.values)) for series in found)
    if "{{job}}" in target.get("legendFormat", "") or target.get("format") == "table":
        chosen = set(job.strip("()").split("|")) if job else APPS.keys()
        # That which is mute now has been measured in the last minutes only.
        assert chosen - {"mute"} <= {series.labels["job"] for series in found} <= chosen


@with_observer
@pytest.mark.parametrize("title", OBSERVED)
@pytest.mark.parametrize("job", [None, "observed"])
def test_every_query_of_the_observer_returns_series(prometheus: Prometheus, title: str, job: str | None) -> None:
    found = ask(prometheus, OBSERVED[title], **{"job": job} if job else {})
    assert found
    assert all(any(map(math.isfinite, series.values)) for series in found)
    jobs = {series.labels.get("job", "observed") for series in found}
    assert {"observed"} <= jobs <= ({job} if job else APPS.keys() - SAMPLERS.keys())


@with_observer
def test_who_holds_it(prometheus: Prometheus) -> None:
    top, *_ = ask(prometheus, OBSERVED["Top holders (last 5 minutes)"], job="observed")
    assert top.labels["thread_name"] == "MainThread"
    hold = "Workload.hold" if sys.version_info >= (3, 11) else "hold"  # before, code has no qualified name
    assert top.labels["code_function_name"] == f"end_to_end.apps.workload.{hold}"
    assert 0.3 < top.values[0] < 0.9
    (stalls,) = ask(prometheus, OBSERVED["Stalls"], job="observed")
    assert max(stalls.values) > 1


@with_observer
def test_holders_add_up_to_contention(prometheus: Prometheus) -> None:
    held = sum(series.values[0] for series in ask(prometheus, OBSERVED["Top holders (last 5 minutes)"], job="observed"))
    (contention,) = ask(prometheus, QUERIES["Contention, worst instance A"], job="observed")
    assert held == pytest.approx(contention.values[0], abs=0.1)


def test_contention_is_a_share(prometheus: Prometheus) -> None:
    target = QUERIES["Contention by instance A"]
    found = {series.labels["job"]: series.values for series in ask(prometheus, target)}
    assert all(0 <= value <= 1 for values in found.values() for value in values)
    assert found["saturated"][-1] > 0.9


@pytest.mark.parametrize("name", ["job", "instance"])
def test_variables(prometheus: Prometheus, name: str) -> None:
    query = substitute(VARIABLES[name]["query"]["query"])
    found = re.fullmatch(r"label_values\((?P<selector>.+), (?P<label>\w+)\)", query)
    assert found
    values = prometheus.api(f"label/{found['label']}/values", **{"match[]": found["selector"]})
    if name == "job":
        assert set(values) == APPS.keys()
    else:
        assert len(values) == len(APPS)


def test_rules_are_evaluated_without_errors(prometheus: Prometheus) -> None:
    (group,) = prometheus.api("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    assert {rule["name"] for rule in group["rules"] if rule["type"] == "alerting"} == {alert for alert, _ in ALERTS} | {
        "CPythonGILStall"
    }
    for rule in group["rules"]:
        if rule["type"] == "recording":
            assert prometheus.series(rule["query"])


def test_texts_of_alerts(prometheus: Prometheus) -> None:
    alerts = prometheus.api("alerts")["alerts"]
    assert {(alert["labels"]["alertname"], alert["labels"]["job"]) for alert in alerts} >= ALERTS
    for alert in alerts:
        assert alert["labels"]["severity"] == "warning"
        assert alert["annotations"].keys() == {"summary", "description"}
        assert alert["labels"]["instance"] in alert["annotations"]["summary"]
        for said in alert["annotations"].values():
            assert not re.search(r"{{|}}|<error|<no value>|%!|\n", said)
        if alert["labels"]["alertname"] == "CPythonGILLongWaits":
            assert re.search(r"took \d+(\.\d+)?s or longer", alert["annotations"]["description"])


def test_picture(prometheus: Prometheus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    import picture

    now = time.time()
    phases = [picture.Phase("before", now - RANGE), picture.Phase("after", now - RANGE / 2)]
    series = {p["id"]: picture.query(prometheus.url, p, now - RANGE, now) for p in picture.PANELS}
    drawn = picture.draw(picture.Run(phases, now, series))
    assert [axes.get_title(loc="left") for axes in drawn.axes] == [panel["title"] for panel in picture.PANELS]
    assert len(drawn.axes) == 4
    drawn.savefig(tmp_path / "picture.svg")
    assert ElementTree.parse(tmp_path / "picture.svg").getroot().tag.endswith("}svg")
