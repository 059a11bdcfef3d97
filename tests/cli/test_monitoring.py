from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from end_to_end.prometheus import program

import otel_gil
from otel_gil._cli import main
from otel_gil._cli.monitoring import FILES, text

MONITORING = Path(otel_gil.__file__).parent / "monitoring"
UNIT_TESTS = Path(__file__).parents[1] / "rules.yaml"

DASHBOARD = json.loads(text("dashboard"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# Of Grafana's valueFormats/categories.ts; a suffix is free text.
UNITS = {"none", "percentunit", "s", "suffix:cores", "suffix:s/s", "suffix:threads", "suffix:/s"}

each_panel = pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", FILES)
def test_printed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 0
    captured = capsys.readouterr()
    assert captured.out == (MONITORING / FILES[command]).read_text()
    assert captured.out.isascii()
    assert captured.out.endswith("}\n" if command == "dashboard" else ".\n")
    assert captured.err == ""


@pytest.mark.parametrize("command", FILES)
def test_written(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "file"
    output.write_text("something longer than nothing")
    assert main([command, "--output", str(output)]) == 0
    assert output.read_text() == text(command)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", FILES)
def test_unwritable(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "missing" / "file"
    assert main([command, "--output", str(output)]) == 1
    assert capsys.readouterr() == ("", f"{output} can't be written: No such file or directory\n")


def test_no_sdk_is_needed() -> None:
    code = (
        "import sys; from otel_gil._cli import main; main(['dashboard']); main(['rules']);"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_it_is_imported_as_it_is() -> None:
    """By hand and by provisioning: inputs, which provisioning does not ask for, and ids of one Grafana are not in it."""
    assert DASHBOARD["schemaVersion"] == 42  # the last that there is of this kind
    assert not {"id", "__inputs", "__requires"} & DASHBOARD.keys()


def test_variables() -> None:
    source, *others = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert [variable["name"] for variable in others] == ["job", "instance"]
    for variable in others:
        assert variable["datasource"] == DATASOURCE
        assert variable["multi"]
        assert variable["includeAll"]


def test_ids_and_titles_are_unique() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["id"] > 0 for panel in panels)


def test_the_grid_is_full() -> None:
    """No cell has two panels, and none of the 24 columns is left empty."""
    cells = Counter(
        (x, y)
        for grid in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    )
    assert set(cells.values()) == {1}
    height = 1 + max(y for _, y in cells)
    assert cells.keys() == {(x, y) for x in range(24) for y in range(height)}


def test_the_row_of_the_observer() -> None:
    """All that only the observer knows is below its row, is open to be seen, and says when it is empty."""
    (row,) = ROWS
    assert row["title"] == "Who holds the GIL (sampler observer)"
    assert not row["collapsed"]
    below = [panel for panel in PANELS if panel["gridPos"]["y"] > row["gridPos"]["y"]]
    assert below
    assert all("Empty unless the sampler is `observer`" in panel["description"] for panel in below)
    only = re.compile("cpython_gil_(held_time|waiting|wait_time|switches|stalls)")
    assert [p for p in PANELS if p["id"] != 1 and any(only.search(t["expr"]) for t in p["targets"])] == below


@each_panel
def test_panels(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 80
    assert panel["datasource"] == DATASOURCE
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"] == DATASOURCE
        selectors = re.findall(r"{[^}]*}", target["expr"])
        assert selectors
        assert all(selector.endswith('job=~"$job", instance=~"$instance"}') for selector in selectors)


@each_panel
def test_units(panel: dict[str, Any]) -> None:
    configuration = panel["fieldConfig"]
    properties = [p for override in configuration["overrides"] for p in override["properties"]]
    units = [p["value"] for p in properties if p["id"] == "unit"]
    units += [h["unit"] for h in (configuration["defaults"], panel["options"].get("yAxis", {})) if "unit" in h]
    assert units
    assert set(units) <= UNITS


def test_rules() -> None:
    promtool("test", "rules", UNIT_TESTS)


def evaluate(panel_id: int, series: dict[str, int], expected: dict[str, float], job: str, folder: Path) -> None:
    """Have promtool evaluate a panel's first query over counters that grow by so much a minute from 0 on."""
    (panel,) = (panel for panel in PANELS if panel["id"] == panel_id)
    expression = panel["targets"][0]["expr"].replace("$__rate_interval", "4m")
    unit_test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"0+{step}x10"} for name, step in series.items()],
        "promql_expr_test": [
            {
                "expr": f"round({expression.replace('$job', job).replace('$instance', '.*')}, 0.0001)",
                "eval_time": "10m",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
            }
        ],
    }
    path = folder / "test.yaml"
    path.write_text(json.dumps({"evaluation_interval": "1m", "tests": [unit_test]}))
    promtool("test", "rules", path)


def gil(state: str, job: str, instance: str = "a") -> str:
    return f'cpython_gil_time_seconds_total{{cpython_gil_state="{state}", job="{job}", instance="{instance}"}}'


def waits(le: str, job: str) -> str:
    return f'cpython_gil_wait_duration_seconds_bucket{{le="{le}", job="{job}", instance="a"}}'


def stalls(job: str) -> str:
    return f'cpython_gil_stalls_total{{job="{job}", instance="a"}}'


def held(thread: str, function: str, job: str, instance: str = "a") -> str:
    labels = f'thread_name="{thread}", code_function_name="{function}", job="{job}", instance="{instance}"'
    return f"cpython_gil_held_time_seconds_total{{{labels}}}"


@pytest.mark.parametrize(
    ("job", "value", "verdict"),
    [
        ("idle", 0.0, "No"),
        ("often", 0.6, "Partly"),
        ("saturated", 1.0, "Yes, saturated"),
        ("one of two", 0.95, "Yes, saturated"),
        ("rare holds", 10.05, "Yes, long waits"),
        ("no waits recorded", 0.6, "Partly"),
        ("observed", 0.6, "Partly"),
        ("stalls", 10.05, "Yes, long waits"),
        (".*", 11.0, "Yes, long waits"),
    ],
)
def test_verdict(job: str, value: float, verdict: str, tmp_path: Path) -> None:
    series = {
        **{
            gil("blocked", "idle"): 0,
            gil("free", "idle"): 60,
            waits("0.01", "idle"): 3000,
            waits("+Inf", "idle"): 3000,
        },
        **{gil("blocked", "often"): 36, gil("free", "often"): 24, waits("0.01", "often"): 9, waits("+Inf", "often"): 9},
        **{gil("blocked", "saturated"): 60, gil("free", "saturated"): 0},
        **{waits("0.01", "saturated"): 2900, waits("0.25", "saturated"): 3000, waits("+Inf", "saturated"): 3000},
        **{gil("blocked", "one of two"): 3, gil("free", "one of two"): 57},
        **{gil("blocked", "one of two", "b"): 57, gil("free", "one of two", "b"): 3},
        **{gil("blocked", "rare holds"): 3, gil("free", "rare holds"): 57},
        **{waits("0.5", "rare holds"): 2900, waits("+Inf", "rare holds"): 3000, waits("2.5", "rare holds"): 3000},
        **{gil("blocked", "no waits recorded"): 36, gil("free", "no waits recorded"): 24},
        **{gil("blocked", "observed"): 36, gil("free", "observed"): 24, stalls("observed"): 0},
        **{gil("blocked", "stalls"): 3, gil("free", "stalls"): 57, stalls("stalls"): 1},
    }
    evaluate(1, series, {"{}": value}, job, tmp_path)
    mappings = [mapping["options"] for mapping in PANELS[0]["fieldConfig"]["defaults"]["mappings"]]
    assert next(m["result"]["text"] for m in mappings if m["from"] <= value <= m["to"]) == verdict


def test_cpu_over_otlp(tmp_path: Path) -> None:
    """From another metric than with the Prometheus exporter; and not of processes in which no GIL is measured."""
    series = {
        gil("free", "otlp"): 60,
        'process_cpu_time_seconds_total{job="otlp", instance="a", type="user"}': 30,
        'process_cpu_time_seconds_total{job="otlp", instance="a", type="system"}': 15,
        gil("free", "both"): 60,
        'process_cpu_seconds_total{job="both", instance="a"}': 6,
        'process_cpu_time_seconds_total{job="both", instance="a", type="user"}': 6,
        'process_cpu_seconds_total{job="not Python", instance="a"}': 60,
    }
    expected = {'{job="otlp", instance="a"}': 0.75, '{job="both", instance="a"}': 0.1}
    evaluate(6, series, expected, ".*", tmp_path)


# Two processes with the observer, of which one was observed for half of the time, and one with another sampler.
HELD = {
    **{gil("blocked", "shop"): 30, gil("free", "shop"): 30, stalls("shop"): 0},
    **{held("MainThread", "shop.price", "shop"): 24, held("_other", "_other", "shop"): 6},
    **{gil("blocked", "shop", "b"): 24, gil("free", "shop", "b"): 6, held("MainThread", "shop.price", "shop", "b"): 24},
    **{gil("blocked", "poisson"): 60, gil("free", "poisson"): 0},
    **{f'cpython_gil_switches_total{{job="shop", instance="{instance}"}}': 60 for instance in "ab"},
}


def test_holders_of_all_instances(tmp_path: Path) -> None:
    expected = {
        '{thread_name="MainThread", code_function_name="shop.price"}': 48 / 90,
        '{thread_name="_other", code_function_name="_other"}': 6 / 90,
    }
    evaluate(12, HELD, {labels: round(share, 4) for labels, share in expected.items()}, ".*", tmp_path)


def test_top_holders(tmp_path: Path) -> None:
    price = 'thread_name="MainThread", code_function_name="shop.price"'
    expected = {
        f'{{job="shop", instance="b", {price}}}': 0.8,
        f'{{job="shop", instance="a", {price}}}': 0.4,
        '{job="shop", instance="a", thread_name="_other", code_function_name="_other"}': 0.1,
    }
    evaluate(13, HELD, expected, ".*", tmp_path)


def test_load_average(tmp_path: Path) -> None:
    """Of the time observed: a scrape comes late, or the process is stopped."""
    waited = {f'cpython_gil_wait_time_seconds_total{{job="shop", instance="{instance}"}}': 90 for instance in "ab"}
    expected = {'{job="shop", instance="a"}': 1.5, '{job="shop", instance="b"}': 3.0}
    evaluate(15, HELD | waited, expected, ".*", tmp_path)
