"""Truth against every monitor, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import OURS, POISSON
from benchmarks.figures import Row, error, errors, truth


def draw(rows: Sequence[Row], contestants: Sequence[str], path: Path) -> None:
    """Write an SVG: a panel for each contestant, a line for each workload, and on it truth, estimate, and the error."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    style: dict[Any, Any] = {
        "svg.hashsalt": "otel-gil",
        "font.size": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(style):
        figure, panels = plt.subplots(
            1, len(contestants), sharey=True, squeeze=False, figsize=(10, 1.3 + 0.24 * len(rows)), layout="constrained"
        )
        for panel, contestant in zip(panels[0], contestants, strict=True):
            color = "#1a7f4b" if contestant in (OURS, POISSON) else "#c2452d"
            for y, row in enumerate(rows):
                made = truth(row)
                if made is None:
                    continue
                panel.plot([made], [y], "|", color="black", markersize=9, markeredgewidth=1.4, zorder=3)
                deviation = error(row["readings"].get(contestant, {"problem": ""}))
                if deviation is not None:
                    # From the mean truth of all processes, and as long as the error in its own.
                    panel.plot([made, made + deviation], [y, y], color=color, linewidth=2.6, alpha=0.45, zorder=1)
                    panel.plot([made + deviation], [y], "o", color=color, markersize=4.2, zorder=2)
            found = errors(rows, contestant)
            mean = f"mean error {found.mean:.3f}\nworst {found.worst:.3f}" if found else "not measured"
            panel.set_title(f"{contestant}\n{mean}", fontsize=8.5, color=color)
            panel.set_xlim(-0.06, 1.1)
            panel.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
            panel.grid(axis="y", color="#e5e5e5", linewidth=0.6)
            panel.tick_params(axis="y", length=0)
        panels[0][0].set_yticks(range(len(rows)), [row["workload"] for row in rows])
        panels[0][0].set_ylim(len(rows) - 0.4, -0.6)
        figure.supxlabel("contention of the GIL:  | truth   ● estimate", fontsize=9)
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
        plt.close(figure)
