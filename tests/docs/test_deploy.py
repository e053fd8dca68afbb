"""deploy/kubernetes: manifests that fit together, and that start what there is."""

import re
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from redis_router import HealthChecker, Router, cli
from redis_router.worker.endpoints import Endpoints
from tests.support import eventually

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
FILES = {path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted(FOLDER.glob("*.yml"))}
OBJECTS: list[dict[str, Any]] = [each for found in FILES.values() for each in found]
DEPLOYMENTS = [each for each in OBJECTS if each["kind"] == "Deployment"]
SECRETS = [each for each in OBJECTS if each["kind"] == "Secret"]
VERSIONS = {
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "PodDisruptionBudget": "policy/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "Secret": "v1",
    "Service": "v1",
}

of_each_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: each["metadata"]["name"])


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    """The only one."""
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def named(name: str) -> dict[str, Any]:
    """The deployment of this name."""
    (found,) = [each for each in DEPLOYMENTS if each["metadata"]["name"] == name]
    return found


def environment(deployment: dict[str, Any]) -> dict[str, Any]:
    """Its variables: a value, or where that comes from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(deployment)["env"]}


def test_the_files_are_those_of_the_page():
    """docs/operations.md names each; each object has a kind and a version that Kubernetes has."""
    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"\(\.\./deploy/kubernetes/([\w.]+)\)", page)) == FILES.keys()
    for each in OBJECTS:
        assert VERSIONS[each["kind"]] == each["apiVersion"]
        assert re.fullmatch(r"[a-z0-9-]{1,63}", each["metadata"]["name"])


@of_each_deployment
def test_selectors_fit(deployment):
    """The deployment's own, its disruption budget's and its service's."""
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    budgets = [each for each in OBJECTS if each["kind"] == "PodDisruptionBudget"]
    (budget,) = [each for each in budgets if each["spec"]["selector"]["matchLabels"] == labels]
    scaled = [each["spec"] for each in OBJECTS if each["kind"] == "HorizontalPodAutoscaler"]
    least = {each["scaleTargetRef"]["name"]: each["minReplicas"] for each in scaled}
    name = deployment["metadata"]["name"]
    assert ("replicas" in deployment["spec"]) is not (name in least), "each apply would undo what the autoscaler did"
    assert 0 < budget["spec"]["minAvailable"] < (deployment["spec"].get("replicas") or least[name])
    services = [each for each in OBJECTS if each["kind"] == "Service" and each["spec"]["selector"] == labels]
    ports = {port["name"] for port in container(deployment)["ports"]}
    assert all(port["targetPort"] in ports for each in services for port in each["spec"]["ports"])


@of_each_deployment
def test_it_is_scraped(deployment):
    """By a monitor that finds its pods, at a port that they have; the path is one that the process serves."""
    template = deployment["spec"]["template"]
    monitors = [each for each in OBJECTS if each["kind"] == "PodMonitor"]
    labels = template["metadata"]["labels"]
    (monitor,) = [each for each in monitors if each["spec"]["selector"]["matchLabels"] == labels]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container(deployment)["ports"]}
    source = {"redis-router-worker": "worker/endpoints.py", "redis-router-gateway": "gateway/app.py"}
    text = (ROOT / "redis_router" / source[deployment["metadata"]["name"]]).read_text()
    assert f'"{endpoint["path"]}"' in text


@of_each_deployment
def test_it_has_no_rights(deployment):
    """No root, no capability, no file that it may write, no token; and it asks for what it needs."""
    pod, own = deployment["spec"]["template"]["spec"], container(deployment)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert own["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert own["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in own["resources"]["limits"]


@of_each_deployment
def test_probes_ask_a_port_that_is_there(deployment):
    """By its name."""
    own = container(deployment)
    ports = {port["name"] for port in own["ports"]}
    probes = [probe for name, probe in own.items() if name.endswith("Probe")]
    assert len(probes) >= 2
    for probe in probes:
        assert probe["httpGet"]["port"] in ports


@of_each_deployment
def test_the_url_comes_from_the_secret(deployment):
    """No manifest but the secret holds it."""
    (secret,) = [each for each in SECRETS if each["metadata"]["name"] == "redis-router"]
    found = environment(deployment)["REDIS_ROUTER_URL"]["secretKeyRef"]
    assert found["name"] == secret["metadata"]["name"]
    assert found["key"] in secret["stringData"]
    assert [name for name in FILES if "redis://" in (FOLDER / name).read_text()] == ["secret.yml"]
    Router(secret["stringData"]["url"], registry=CollectorRegistry())  # a URL that a router takes; asks nothing


def test_the_workers_command_line_is_understood(monkeypatch):
    """With its name filled in as Kubernetes does; Redis by the environment; the port that the probes ask."""
    worker = named("redis-router-worker")
    own, env = container(worker), environment(worker)
    monkeypatch.setenv("REDIS_ROUTER_URL", "redis://redis:6379/0")
    filled_in = [
        re.sub(r"\$\((\w+)\)", lambda found: env[found[1]] and "worker-7f9c-x2b4k", arg) for arg in own["args"]
    ]
    assert own["command"] == ["redis-router"]
    arguments = cli.parser().parse_args(filled_in)
    assert arguments.redis == "redis://redis:6379/0"
    assert arguments.name == "worker-7f9c-x2b4k"
    assert arguments.metrics_host == "0.0.0.0"
    assert own["ports"] == [{"name": "metrics", "containerPort": arguments.metrics_port}]
    scraped = worker["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
    assert scraped == str(arguments.metrics_port)
    HealthChecker(
        "redis://redis:6379/0",
        arguments.namespace,
        arguments.interval,
        arguments.lease,
        worker=arguments.name,
        registry=CollectorRegistry(),
    ).stop()


def test_the_workers_probes_are_pages_that_it_has(one_real):
    """Liveness asks whether it runs, readiness whether Redis is there."""
    own = container(named("redis-router-worker"))
    asked = {name: own[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    checker = HealthChecker(one_real.url, one_real.namespace, registry=CollectorRegistry())
    with closing(Endpoints("127.0.0.1", 0, checker)) as endpoints:
        checker.start()
        try:
            eventually(lambda: checker.redis_up)
            for path in asked.values():
                with urllib.request.urlopen(endpoints.url + path, timeout=5) as answer:
                    assert answer.status == 200
        finally:
            checker.stop()
