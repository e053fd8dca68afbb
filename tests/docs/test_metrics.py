"""docs/metrics.md and deploy/prometheus/rules.yml name the metrics that there are, and the snippets run."""

import ast
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

import redis_router
from redis_router.request import classify
from redis_router.telemetry.metrics import CREDENTIALS_REFUSED, DROP_REASONS
from redis_router.testing.server import free_port
from tests.docs.collectors import METRICS
from tests.docs.queries import check, read
from tests.support import eventually

ROOT = Path(__file__).parents[2]
PACKAGE = Path(redis_router.__file__).parent
PAGE = (ROOT / "docs" / "metrics.md").read_text()
SNIPPETS = re.findall(r"^```(\w+|\{\w+\})[^\n]*\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
GROUPS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ROWS = re.findall(r"^\| `(redis_router_\w+)` \| (\w+) \| ([\w, ]*?) ?\| (.+) \|$", PAGE, re.MULTILINE)


def test_the_tables_are_the_collectors():
    """Every metric once, with its type and its labels; and no other."""
    documented = {name: (kind, {label for label in labels.split(", ") if label}) for name, kind, labels, _ in ROWS}
    assert len(documented) == len(ROWS)
    assert documented == {name: (kind, labels.keys() - {"le"}) for name, (kind, labels) in METRICS.items()}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("requests_total", "outcome"),
        ("webhook_deliveries_total", "result"),
        ("webhook_dropped_total", "reason"),
        ("probes_total", "result"),
        ("circuit_state", "state"),
        ("replicas", "role"),
        ("gateway_config_reloads_total", "result"),
        ("replicas_that_differ", "how"),
    ],
)
def test_label_values_are_those_in_use(name, label):
    """The table lists all of them."""
    (text,) = [text for row, _, _, text in ROWS if row == f"redis_router_{name}"]
    assert set(re.findall(r"`(\w+)`", text)) == METRICS[f"redis_router_{name}"][1][label]


def test_drop_reasons_are_those_in_use():
    """Each is explained."""
    (text,) = re.findall(r"^A result is dropped .*?\n\n", PAGE, re.DOTALL | re.MULTILINE)
    assert (
        set(re.findall(r"\(`(\w+)`\)", text))
        == set(DROP_REASONS)
        == METRICS["redis_router_results_dropped_total"][1]["reason"]
    )


def test_threads_are_those_that_run():
    """`thread` has the names that the library gives to its background threads."""
    calls = (node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())))
    names = {
        ast.literal_eval(call.args[0])
        for call in calls
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Background"
    }
    (text,) = [text for row, _, _, text in ROWS if row == "redis_router_background_failures_total"]
    assert set(re.findall(r"`(\w+)`", text)) == names


def test_failure_reasons_are_those_of_classify():
    """Those that the table and the alert give are words that `classify` uses."""
    source = Path(classify.__file__).read_text().replace('f"http_{status}"', '"http_503"')
    (text,) = [text for row, _, _, text in ROWS if row == "redis_router_failures_total"]
    alerted = [
        word for rule in RULES for words in re.findall(r'reason=~"([^"]+)"', rule["expr"]) for word in words.split("|")
    ]
    assert tuple(alerted) == CREDENTIALS_REFUSED
    for reason in [*re.findall(r"`(\w+)`", text), *alerted]:
        assert f'"{reason}"' in source, reason


# Queries

QUERIES = [(rule["alert"], rule["expr"]) for rule in RULES]
QUERIES += [
    (f"query {number}", text) for number, text in enumerate(text for kind, text in SNIPPETS if kind == "promql")
]


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_query_is_of_metrics_that_exist(name, query):
    """It can be parsed; and its names, labels and label values are those of the collectors."""
    check(query)


def test_every_rule_is_complete():
    """A name of its own, how urgent it is, a sentence with labels that there are, and its paragraph of the runbook."""
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "runbook"}
        said = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert said <= (read(rule["expr"]).kept or {"instance"}), rule["alert"]
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


# Snippets


def test_every_snippet_is_of_a_kind_that_is_tested():
    """Queries above; the two others below; the rule file is included as it is."""
    kinds = [kind for kind, _ in SNIPPETS]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "promql": 4,
        "python": 1,
        "sh": 1,
        "{literalinclude}": 1,
    }
    assert "```{literalinclude} ../deploy/prometheus/rules.yml\n" in PAGE


def code(kind: str) -> str:
    """The one snippet of this kind."""
    (text,) = [text for each, text in SNIPPETS if each == kind]
    return text


@pytest.fixture
def gateway(one_real, tmp_path) -> Iterator[Any]:
    """The gateway of the page as gateway.py; starts it by a command of the page, and gives its /metrics."""
    (tmp_path / "gateway.py").write_text(code("python"))
    url = f"{one_real.url}?socket_timeout=20&socket_connect_timeout=20"
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "REDIS_ROUTER_URL": url, "PATH": paths, "PYTHONPATH": str(PACKAGE.parent)}
    running: list[subprocess.Popen[bytes]] = []

    def start(command: str) -> Any:
        port = free_port()
        command = command.replace("uvicorn ", f"exec uvicorn --port {port} ")
        running.append(subprocess.Popen(["bash", "-euc", command], cwd=tmp_path, env=env, start_new_session=True))

        def metrics() -> str:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
            return ""

        eventually(lambda: "redis_router_redis_up 1.0" in metrics(), "it serves, in touch with Redis", 60)
        return metrics

    yield start
    for process in running:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_one_process_shows_its_metrics(gateway):
    """Those of the process itself, too."""
    said = gateway("uvicorn gateway:app")()
    assert "python_info" in said
    assert 'redis_router_circuit_state{provider="openai",state="closed"} 1.0' in said


def test_several_processes_show_what_all_of_them_wrote(gateway, tmp_path):
    """Two workers, as printed: only the folder is ours."""
    folder = tmp_path / "metrics"
    metrics = gateway(code("sh").replace("/run/gateway/metrics", str(folder)))
    eventually(lambda: len(list(folder.glob("gauge_livemin_*.db"))) == 2, "two processes wrote", 60)
    assert "python_info" not in metrics()
    assert "redis_router_redis_up 1.0" in metrics()
