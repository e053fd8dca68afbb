"""docs/operating.md: overrides and the log of what happened, as an operator would type it."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from redis_router import CircuitConfig, Provider, Router
from redis_router.runtime.names import operator_name
from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from redis_router.testing.server import EmbeddedServer
from redis_router.worker import delivery, notices, notifier
from tests.conftest import REAL
from tests.docs.conftest import patient
from tests.support import eventually, recorded, result
from tests.support.documents import ROOT, rows, section, snippet
from tests.support.http import receiver

CHECK = snippet("docs/operating.md", "def is_ours")
EXAMPLE = snippet("docs/operating.md", '"changes": [')
START = snippet("docs/operating.md", "--webhook-url-env")
SLACK = snippet("docs/operating.md", "trial calls from")
ACT = snippet("docs/operating.md", "operator.drain")
BEGIN = snippet("docs/operating.md", "observe=True")
LOOK = snippet("docs/operating.md", "operator.events")
RESET = snippet("docs/operating.md", "operator.reset")
LOOKING = snippet("docs/operating.md", "redis-router doctor ")
ACTING = snippet("docs/operating.md", "redis-router ready openai ")
(EVENTS,) = [line for line in LOOKING.splitlines() if " events " in line]
WHO = snippet("docs/operating.md", "operator.replicas")
NAMES = ("openai", "azure", "anthropic")


def played(backend, text, **scope):
    """The lines as printed, on a Redis of the test's own."""
    place = f'"{backend.url}", namespace="{backend.namespace}"'
    exec(text.replace('"redis://localhost:6379/0"', place), scope)
    return scope


def test_an_operator_acts_looks_and_begins(backend, capsys):
    """Every snippet; where the user may not read logs, the last one is left to the other stores."""
    if backend.url is None:
        return
    fleet = played(backend, BEGIN, Router=Router)["router"]
    with fleet:
        for name in NAMES:
            fleet.register_provider(Provider(name, ("m",)))
        fleet.start()
        assert fleet.flush()
        assert {health.override for health in fleet.get_health_status().values()} == {"observe"}
        scope = played(backend, ACT)
        health = scope["operator"].status().records
        assert [health[name].override for name in NAMES] == ["", "observe", "force_closed"]
        assert (health["azure"].weight_override, health["anthropic"].override_by) == (0.2, operator_name())
        played(backend, RESET, **scope)
        eventually(lambda: scope["operator"].replicas())
        capsys.readouterr()
        played(backend, WHO, **scope)
        assert f"{fleet.replica} gateway {version('redis-llm-router')} in_step " in capsys.readouterr().out
        if backend.name == "memory":
            played(backend, LOOK, **scope)
            said = capsys.readouterr().out
            assert "'to': 'drain', " in said
            assert "'reason': 'moved to another region'" in said


@pytest.fixture
def heard(one_real):
    """What a receiver hears of a transition and a drain, from a worker that is started as the page says."""
    url = one_real.url.replace("router:password@", "")  # whose user may read logs
    where = f"--redis {url} --namespace {one_real.namespace}"
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with receiver() as hears:
        words = START.replace("https://hooks.slack.com/services/T000/B000/XXXX", hears.url)
        command = words.replace("redis-router worker", f"exec redis-router worker --metrics-port 0 {where}")
        env = {**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT)}
        worker = subprocess.Popen(["bash", "-euc", command], env=env, stderr=subprocess.DEVNULL)
        try:
            store = one_real.operator()
            store.register(Provider("openai", ("m",)), CircuitConfig(consecutive_failure_limit=1))
            eventually(lambda: "*" in store.told())
            recorded(store, "openai", 1, result("openai", False))
            eventually(lambda: hears.changes)
            store.override("openai", "drain", 1_800_000, 0, "alice@ops-1", "slow since noon")
            eventually(lambda: len(hears.changes) == 2)
        finally:
            worker.terminate()
            worker.wait(20)
        yield hears


def test_a_webhook_is_told_what_the_page_shows(heard):
    """Its members, its text, and a signature that the page's function believes, and only that."""
    scope = {}
    exec(CHECK, scope)
    secret = re.search("WEBHOOK_SECRET=(\\S+)", START)[1]
    for headers, body in heard.asked:
        assert scope["is_ours"](headers, body, secret)
        assert not scope["is_ours"](headers, body + b" ", secret)
        assert not scope["is_ours"](headers, body, secret[:-4] + "AAA=")
        late = {**headers, "webhook-timestamp": str(int(time.time()) - 301)}
        assert not scope["is_ours"](late, body, secret)
    shown, told = json.loads(EXAMPLE), heard.messages[-1]
    assert list(shown) == list(told)
    (example,), change = shown["changes"], heard.changes[-1]
    assert list(example) == list(change)
    same = ("provider", "event", "by", "from", "to", "reason", "generation", "override")
    assert [example[name] for name in same] == [change[name] for name in same]
    assert re.fullmatch(r"[^:]+:openai:\d+-\d+", change["id"])
    text = re.sub(r"\d{4}-\d\d-\d\d [\d:]+ UTC", "T", heard.messages[0]["text"])
    expected = re.sub(r"\d{4}-\d\d-\d\d [\d:]+ UTC", "T", SLACK.strip())
    expected = expected.replace("rr:", f"{heard.messages[0]['namespace']}:").replace("gw-1", "operator")
    assert text == expected.replace("failure_rate", heard.changes[0]["reason"])


def test_the_members_and_numbers_are_those_of_the_code():
    """In the tables and the sentences of the page."""
    named = {name for row in rows(section("docs/operating.md", "Webhook")) for name in re.findall(r"`(\w+)`", row[0])}
    assert named | {"provider", "text"} == json.loads(EXAMPLE)["changes"][0].keys()
    page = " ".join(section("docs/operating.md", "Webhook").split())
    assert f"A message has {delivery.TIME_OUT:g} s." in page
    assert (delivery.MOST_PATIENCE, notifier.SAME_SECONDS) == (300, 300)
    assert (notifier.TOGETHER_SECONDS, notifier.BETWEEN_SECONDS) == (1, 2)
    assert "within a second is one message, and after a message comes a pause of two seconds" in page
    assert f"more than {notices.MOST_CHANGES} changes wait" in page
    assert json.loads(EXAMPLE)["version"] == notices.VERSION


def test_the_rehearsal_is_that_of_the_report():
    """Row by row."""
    report = (ROOT / "benchmarks/results/rehearsal.md").read_text()
    assert rows(section("docs/operating.md", "A rehearsal")) == rows(report)


@pytest.fixture
def night():
    """A fleet on a server of its own: two providers of a model, of which one is called, and a gateway."""
    with EmbeddedServer(next(iter(REAL.values()))) as running, connect(running.url) as client:
        store = RedisStore(client, "rr", "gw-1")
        for name in ("openai", "azure"):
            store.register(Provider(name, ("gpt-4o",)), CircuitConfig(consecutive_failure_limit=1))
        recorded(store, "openai", 1, result("openai", False))
        yield running.url, store


def typed(url, line):
    """As it stands there, in a shell; its comment, too."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT), "REDIS_ROUTER_URL": patient(url)}
    command = ["bash", "-euc", line]
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_the_commands_of_the_night_look(night):
    """Each says something of the fleet; the doctor finds that no worker leads."""
    url, _ = night
    said = {line.split()[1]: typed(url, line) for line in LOOKING.splitlines() if " openai" not in line}
    (whole,) = [typed(url, line) for line in LOOKING.splitlines() if " openai" in line]
    assert all(each.stderr == "" for each in (*said.values(), whole))
    assert {name: each.returncode for name, each in said.items()} == {
        "doctor": 0,
        "status": 0,
        "events": 0,
        "replicas": 0,
    }
    assert "no worker ever led here" in said["doctor"].stdout
    assert "http_503" not in said["events"].stdout
    assert "circuit closed -> open (consecutive_failures)" in said["events"].stdout
    assert "consecutive_failures" in said["status"].stdout
    assert "opened by consecutive_failures" in whole.stdout


def test_the_commands_of_the_night_act(night):
    """One after the other: each is seen in the record, and in the history with its reason."""
    url, store = night
    seen = []
    for line in ACTING.splitlines():
        done = typed(url, line)
        assert done.returncode == 0, done.stderr
        health = store.snapshot().records["openai"]
        seen.append((health.override, health.weight_override, health.circuit_state))
        assert shlex.split(line, comments=True)[shlex.split(line).index("--reason") + 1] in typed(url, EVENTS).stdout
    assert seen == [
        ("drain", 0.0, "open"),
        ("", 0.0, "open"),
        ("", 0.1, "open"),
        ("force_closed", 0.1, "open"),
        ("force_closed", 0.1, "closed"),
    ]
