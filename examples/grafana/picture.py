"""Draws what the dashboard shows of changing_load.py, from a real Prometheus server, as docs/dashboard.svg.

    make picture

It takes three and a half minutes of a machine that has two cores and little else to do, and needs `prometheus` and
matplotlib. What is drawn are the queries, titles, units, thresholds and the layout of the dashboard's panels of lines
and waits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlencode

import matplotlib as mpl
from changing_load import LOADS
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, PercentFormatter

from otel_gil._cli.monitoring import text

HERE = Path(__file__).parent
DASHBOARD = json.loads(text("dashboard"))["panels"]
(ROW,) = (panel["gridPos"]["y"] for panel in DASHBOARD if panel["type"] == "row")  # of the observer, which is not drawn
PANELS = [panel for panel in DASHBOARD if panel["type"] in {"timeseries", "heatmap"} and panel["gridPos"]["y"] < ROW]
INTERVAL = 3  # seconds between two scrapes: longer than a hold, so that every scrape is answered in time
INSTRUMENT = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"

# Grafana's own
CLASSIC = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a")
COLORS = {"yellow": "#fade2a", "red": "#f2495c"}


class Phase(NamedTuple):
    """A load, and the moment from which it was there."""

    name: str
    start: float


class Series(NamedTuple):
    """A line of a panel."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


class Run(NamedTuple):
    """What there is to draw: the phases, the end of the last, and the series of each panel by its id."""

    phases: list[Phase]
    end: float
    series: dict[int, list[Series]]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def measure(seconds: float) -> Run:
    """Run the application for a cycle of its loads, scraped by Prometheus, and query what the panels show."""
    server = shutil.which("prometheus")
    if not server:
        sys.exit("There is no Prometheus server; on Debian and Ubuntu: apt-get install prometheus")
    ports = {"app": free_port(), "prometheus": free_port()}
    url = f"http://127.0.0.1:{ports['prometheus']}"
    environment = {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(ports["app"]),
    }
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="otel-gil-picture-"))
        configuration = Path(folder, "prometheus.yml")
        job = {
            "job_name": "app",
            "scrape_interval": f"{INTERVAL}s",
            "scrape_timeout": f"{INTERVAL}s",
            "static_configs": [{"targets": [f"127.0.0.1:{ports['app']}"], "labels": {"instance": "localhost:9464"}}],
        }
        configuration.write_text(json.dumps({"scrape_configs": [job]}))
        log = stack.enter_context(Path(folder, "log").open("w"))
        for command in (
            [
                server,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
            ],
            [sys.executable, "-c", INSTRUMENT, sys.executable, str(HERE / "changing_load.py"), str(seconds)],
        ):
            process = stack.enter_context(
                subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=log, text=True)
            )
            stack.callback(process.kill)
        assert process.stdout
        phases = [Phase(line.strip(), time.time()) for _, line in zip([*LOADS, "the first again"], process.stdout)]
        end = phases.pop().start
        time.sleep(INTERVAL)
        return Run(phases, end, {panel["id"]: query(url, panel, phases[0].start, end) for panel in PANELS})


def query(url: str, panel: dict[str, Any], start: float, end: float) -> list[Series]:
    """What a panel shows, with the variables substituted as Grafana does."""
    found = []
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for target in panel["targets"]:
        expression = target["expr"].replace("$job", ".*").replace("$instance", ".*")
        expression = expression.replace("$__rate_interval", f"{4 * INTERVAL}s")
        parameters = urlencode({"query": expression, "start": start, "end": end, "step": INTERVAL})
        with opener.open(f"{url}/api/v1/query_range?{parameters}", timeout=30) as response:
            for series in json.load(response)["data"]["result"]:
                times, values = zip(*((moment - start, float(value)) for moment, value in series["values"]))
                labels = series["metric"] | {"__legend__": target["legendFormat"]}
                found.append(Series(labels, list(times), list(values)))
    return found


def legend(series: Series) -> str:
    name = series.labels["__legend__"]
    for label, value in series.labels.items():
        name = name.replace("{{" + label + "}}", value)
    return name


def duration(seconds: float, _: object = None) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1e3:g} ms"


def draw_lines(axes: Axes, panel: dict[str, Any], run: Run) -> None:
    """A panel of the type timeseries."""
    defaults = panel["fieldConfig"]["defaults"]
    lines = run.series[panel["id"]]
    for series, color in zip(lines, CLASSIC):
        axes.plot(series.times, series.values, color=color, label=legend(series), linewidth=1.6)
    for step in defaults.get("thresholds", {"steps": []})["steps"][1:]:
        axes.axhline(step["value"], color=COLORS[step["color"]], linewidth=1, linestyle="--")
    if "scaleDistribution" in defaults["custom"]:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.05 * max(1.0, *(value for series in lines for value in series.values)))
    if defaults["unit"] == "percentunit":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    elif defaults["unit"] == "s":
        axes.yaxis.set_major_formatter(FuncFormatter(duration))
    else:
        axes.set_ylabel(defaults["unit"].removeprefix("suffix:"))
    columns = 60 // max(len(legend(series)) for series in lines)
    axes.legend(loc="upper left", frameon=False, ncols=columns, bbox_to_anchor=(0, -0.12), borderaxespad=0)


def draw_heatmap(axes: Axes, panel: dict[str, Any], run: Run) -> None:
    """A panel of the type heatmap: buckets that are not empty, by their upper bounds."""
    buckets = sorted(run.series[panel["id"]], key=lambda series: float(series.labels["le"]))
    below = dict.fromkeys(buckets[0].times, 0.0)
    rows = []
    for bucket in buckets:
        upto = dict(zip(bucket.times, bucket.values))
        rows.append([upto[moment] - below[moment] for moment in upto])
        below = upto
    empty = panel["options"]["filterValues"]["le"]
    last = max(i for i, row in enumerate(rows) if max(row) > empty)
    cells = [[value if value > empty else float("nan") for value in row] for row in rows]
    axes.pcolormesh(
        [moment - INTERVAL / 2 for moment in [*buckets[0].times, buckets[0].times[-1] + INTERVAL]],
        [i - 0.5 for i in range(last + 2)],
        cells[: last + 1],
        cmap=panel["options"]["color"]["scheme"],
        norm=PowerNorm(panel["options"]["color"]["exponent"], vmin=0),
        rasterized=True,  # thousands of cells would make a large file
    )
    bounds = [float(bucket.labels["le"]) for bucket in buckets[: last + 1]]
    shown = [i for i, bound in enumerate(bounds) if bound in {0.0001, 0.001, 0.005, 0.01, 0.1, 1.0, 5.0, 15.0}]
    axes.set_yticks([i + 0.5 for i in shown], [duration(bounds[i]) for i in shown])


DRAW = {"timeseries": draw_lines, "heatmap": draw_heatmap}


def draw(run: Run) -> Figure:
    """The panels, where the dashboard has them."""
    figure = Figure(figsize=(10, 6.4), layout=ConstrainedLayoutEngine(wspace=0.06, hspace=0.06), facecolor="white")
    columns, rows = (sorted({panel["gridPos"][axis] for panel in PANELS}) for axis in "xy")
    starts = [phase.start - run.phases[0].start for phase in run.phases]
    ends = [*starts[1:], run.end - run.phases[0].start]
    for panel in PANELS:
        x, y = panel["gridPos"]["x"], panel["gridPos"]["y"]
        axes = figure.add_subplot(len(rows), len(columns), 1 + rows.index(y) * len(columns) + columns.index(x))
        axes.set_title(panel["title"], loc="left", fontweight="bold", pad=20)
        DRAW[panel["type"]](axes, panel, run)
        axes.set_xlim(0, ends[-1])
        axes.set_xticks(starts)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda moment, _: f"{moment // 60:.0f}:{moment % 60:02.0f}"))
        axes.spines[["top", "right"]].set_visible(False)
        for phase, start, end in zip(run.phases, starts, ends):
            axes.axvline(start, color="#888", linewidth=0.8, linestyle=":")
            axes.text(
                (start + end) / 2, 1.02, phase.name, transform=axes.get_xaxis_transform(), ha="center", color="#555"
            )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw what the dashboard shows of changing_load.py.")
    parser.add_argument("--seconds", type=float, default=48.0, help="of each of the loads (default: %(default)g)")
    parser.add_argument("--output", type=Path, default=HERE.parents[1] / "docs" / "dashboard.svg", metavar="FILE")
    arguments = parser.parse_args()
    run = measure(arguments.seconds)
    arguments.output.parent.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "otel-gil", "font.size": 9, "axes.titlesize": 10}):
        draw(run).savefig(arguments.output, dpi=200, metadata={"Date": None})


if __name__ == "__main__":
    main()
