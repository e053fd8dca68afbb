"""deploy/grafana: the dashboard shows metrics that there are, and docker-compose.yml hands it to Grafana."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.queries import check, read

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((FOLDER / "redis_router.json").read_text())
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(f"{panel['title']} {each['refId']}", each) for panel in PANELS for each in panel["targets"]]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@pytest.mark.parametrize(("name", "target"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_query_is_of_metrics_that_exist(name, target):
    """It can be parsed, and its legend names labels that it keeps."""
    check(target["expr"])
    said = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    assert said <= (read(target["expr"]).kept or {"instance"}), name


def test_the_variables_are_in_use():
    """The one of providers has their names from a metric that there is."""
    assert VARIABLES.keys() == {"datasource", "provider"}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD["panels"])))
    assert used == VARIABLES.keys()
    (metric, label) = re.fullmatch(r"label_values\((\w+), (\w+)\)", VARIABLES["provider"]["definition"]).groups()
    assert VARIABLES["provider"]["query"]["query"] == VARIABLES["provider"]["definition"]
    check(f"max by ({label}) ({metric})")


def test_the_rows_are_those_of_the_page():
    """docs/metrics.md names them, and the variable."""
    rows = [panel["title"].partition(":")[0] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Fleet", "Provider", "Worker", "Gateway"]
    page = " ".join((ROOT / "docs" / "metrics.md").read_text().split())
    assert (
        "a row for the fleet, one for the provider that you choose, one for the workers, and one for the gateway"
        in page
    )


def test_every_panel_has_its_place():
    """A number and a title of its own, a sentence of help, and no other panel where it is."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["description"].endswith(".") for panel in PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        own = cells(panel["gridPos"])
        assert not own & taken, panel["title"]
        assert all(x < 24 for x, _ in own), panel["title"]
        taken |= own


def cells(place: dict[str, int]) -> set[tuple[int, int]]:
    """Of Grafana's grid, 24 wide."""
    columns = range(place["x"], place["x"] + place["w"])
    return {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}


def mounts(service: str) -> dict[str, Path]:
    """What a service of docker-compose.yml finds of ours, by its path in the container; read-only."""
    found: dict[str, Path] = {}
    for volume in COMPOSE[service]["volumes"]:
        ours, inside, how = volume.split(":")
        assert how == "ro"
        found[inside] = ROOT / ours
        assert found[inside].exists()
    return found


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_grafana_is_given_the_dashboard():
    """Where its provider looks for it, with the Prometheus that the fleet has."""
    found = mounts("grafana")
    source = loaded(found["/etc/grafana/provisioning/datasources/redis_router.yml"])["datasources"][0]
    assert source["type"] == VARIABLES["datasource"]["query"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in COMPOSE
    interval = loaded(ROOT / "deploy" / "prometheus" / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    folder = loaded(found["/etc/grafana/provisioning/dashboards/redis_router.yml"])["providers"][0]["options"]["path"]
    assert found[f"{folder}/redis_router.json"] == FOLDER / "redis_router.json"
    head = (ROOT / "docker-compose.yml").read_text()
    assert f"http://localhost:3000/d/{DASHBOARD['uid']} " in head


def test_prometheus_is_given_the_rules():
    """In the folder of its configuration, which names them."""
    folder = mounts("prometheus")["/etc/prometheus"]
    configured = loaded(folder / "prometheus.yml")
    assert [(folder / name).exists() for name in configured["rule_files"]] == [True]


def test_nothing_is_reached_from_outside():
    """Every port is bound to this machine; whoever looks at Grafana without a login may only look."""
    for service in COMPOSE.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert COMPOSE["grafana"]["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
