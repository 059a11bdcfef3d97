"""Children by each start method of multiprocessing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from marks import with_observer

from .processes import python

if TYPE_CHECKING:
    from .processes import Start


@pytest.mark.parametrize("sampler", ["poisson", pytest.param("observer", marks=with_observer)])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child(start: Start, method: str, sampler: str) -> None:
    application = start(
        *python("children", method),
        OTEL_PYTHON_GIL_SAMPLER=sampler,
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
        OTEL_EXPORTER_PROMETHEUS_PORT="0",
    )
    assert application.wait() == 0
    assert application.stdout == ""
    assert application.stderr == ""
    result = json.loads((application.folder / "result").read_text())
    assert result["exit_code"] == 0
    assert result["seconds_to_end"] < 10

    (blocked, free), (blocked_later, free_later) = result["child"]
    assert blocked_later - blocked == pytest.approx(0.5, abs=0.3)
    assert free_later > free
    # Only what is forked from the parent itself goes on from its totals.
    parent_blocked, parent_free = result["parent"][-1]
    assert (blocked >= parent_blocked and free >= parent_free) == (method == "fork")
