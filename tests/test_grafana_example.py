"""The compose file of examples/grafana and what it mounts; no container is started."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from end_to_end.prometheus import program

EXAMPLE = Path(__file__).parent.parent / "examples" / "grafana"
SERVICES = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]


def read(name: str) -> Any:
    return yaml.safe_load((EXAMPLE / name).read_text())


def mounts(service: str) -> dict[str, Path]:
    """Files of this repository by their paths in the container."""
    found = {}
    for volume in SERVICES[service]["volumes"]:
        source, target, mode = volume.split(":")
        assert mode == "ro"
        assert target not in found
        found[target] = (EXAMPLE / source).resolve()
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_services(service: str) -> None:
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", SERVICES[service]["image"])
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service]["ports"])
    assert all(path.is_file() for path in mounts(service).values())


def test_prometheus(tmp_path: Path) -> None:
    mounted = mounts("prometheus")
    configuration = mounted["/etc/prometheus/prometheus.yml"].read_text()
    for target, path in mounted.items():
        configuration = configuration.replace(target, str(path))
    mapped = tmp_path / "prometheus.yml"
    mapped.write_text(configuration)
    done = subprocess.run(
        [program("promtool"), "check", "config", mapped], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 rules found" in done.stdout
    assert "host.docker.internal:host-gateway" in SERVICES["prometheus"]["extra_hosts"]
    (job,) = read("prometheus.yaml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["host.docker.internal:9464"]}]


def test_grafana_provisioning() -> None:
    mounted = mounts("grafana")
    assert mounted.pop("/etc/grafana/provisioning/datasources/otel-gil.yaml") == EXAMPLE / "datasources.yaml"
    assert mounted.pop("/etc/grafana/provisioning/dashboards/otel-gil.yaml") == EXAMPLE / "dashboards.yaml"
    ((dashboard, _),) = mounted.items()
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard
    provisioned = read("dashboards.yaml")
    assert provisioned["apiVersion"] == 1
    (provider,) = provisioned["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == str(Path(dashboard).parent)


def test_data_source() -> None:
    provisioned = read("datasources.yaml")
    assert provisioned["apiVersion"] == 1
    (source,) = provisioned["datasources"]
    assert source["type"] == "prometheus"
    assert source["isDefault"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES
    assert source["jsonData"]["timeInterval"] == read("prometheus.yaml")["global"]["scrape_interval"]
