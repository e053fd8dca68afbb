"""docs/command-line.md: commands and options are those that there are."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from redis_router import RECOMMENDED, CircuitConfig, Outcome, Provider, cli
from redis_router.circuit.outcome import Result, UnderWay
from redis_router.cli.checkup import CHECKS
from redis_router.cli.completion import actions_of
from redis_router.store.connect import connect
from redis_router.store.contract import Batch
from redis_router.store.presence import Presence
from redis_router.store.redis import RedisStore
from redis_router.testing.server import EmbeddedServer
from tests.conftest import REAL
from tests.docs.conftest import patient
from tests.support import recorded, result
from tests.support.documents import consoles, rows, section, snippet

COMMANDS = consoles("docs/command-line.md")
FLEET = snippet("docs/command-line.md", "# the week of the launch")
THAT_END = [command for command, _ in COMMANDS if " status" in command or " purge" in command]


@pytest.mark.parametrize("command", [command for command, _ in COMMANDS])
def test_a_command_is_understood(command):
    """The worker is run by tests/docs/test_readme.py, the demo by tests/process/test_demo.py."""
    name, *options = shlex.split(command)
    assert name == "redis-router"
    cli.parser().parse_args(options)


@pytest.mark.parametrize("command", THAT_END)
def test_a_command_does_what_it_says(one_real, command, capsys):
    """On a real server, with a record in it."""
    store = one_real.store()
    store.register(Provider("openai", ("gpt-4o",)), CircuitConfig(consecutive_failure_limit=1))
    recorded(store, "openai", 1, result("openai", False))
    where = ["--redis", patient(one_real.url.replace("router:password@", "")), "--namespace", one_real.namespace]
    assert cli.main([*shlex.split(command)[1:], *where]) == 0
    said = capsys.readouterr().out
    assert ("openai" in said) == (" status" in command)


def test_what_an_operator_types_prints_what_the_page_shows(one_real, capsys, monkeypatch):
    """One after the other, on a fleet of two; the address, the name and the moments are of the test."""
    monkeypatch.setattr("redis_router.cli.acting.operator_name", lambda: "alice@ops-1")
    store = one_real.store("gw-3")
    for name in ("openai", "azure"):
        store.register(Provider(name, ("gpt-4o",)), CircuitConfig())
    where = ["--redis", patient(one_real.url.replace("router:password@", "")), "--namespace", one_real.namespace]
    typed = [(c, shown) for c, shown in COMMANDS if c.split()[1] in ("drain", "weight", "events")]
    assert len(typed) == 3
    for command, shown in typed:
        assert cli.main([*shlex.split(command)[1:], *where]) == 0
        said = capsys.readouterr().out.splitlines()
        if " events" in command:
            assert masked(said[-1].partition("openai")[2]) == masked(shown.splitlines()[-1].partition("openai")[2])
        else:
            assert said == [line for line in shown.splitlines() if "under way" not in line]


def test_the_file_of_the_page_does_what_the_page_says(one_real, capsys, tmp_path, monkeypatch):
    """Shown, compared and applied, one after the other."""
    monkeypatch.chdir(tmp_path)
    Path("fleet.toml").write_text(FLEET)
    one_real.store().register(Provider("openai", ("gpt-4o",), weight=2.0), replace(RECOMMENDED, open_timeout=10.0))
    where = ["--redis", patient(one_real.url.replace("router:password@", "")), "--namespace", one_real.namespace]
    typed = [(command, shown) for command, shown in COMMANDS if command.split()[1] == "config"]
    assert [command.split()[2] for command, _ in typed] == ["show", "diff", "apply"]
    for command, shown in typed:
        assert cli.main([*shlex.split(command)[1:], *where]) == (" diff" in command)
        assert capsys.readouterr().out == shown


def test_status_prints_the_columns_of_the_page(one_real, capsys):
    """The example's head is today's."""
    one_real.store().register(Provider("openai", ("gpt-4o",)), CircuitConfig())
    where = ["--redis", patient(one_real.url), "--namespace", one_real.namespace]
    assert cli.main(["status", *where]) == 0
    (today,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PROVIDER")]
    pages = {output for page in ("docs/command-line.md", "docs/tutorial.md") for _, output in consoles(page)}
    heads = [line for output in pages for line in output.splitlines() if line.startswith("PROVIDER")]
    assert len(heads) == 2
    assert all(line.split() == today.split() for line in heads)


@pytest.fixture
def a_bad_day(one_real):
    """openai is open, and drained; gw-1 and gw-2 call it; gw-2 has not heard of it, and gw-3 is silent."""
    now_ms, _ = one_real.looking.leader()
    circuit = CircuitConfig(min_reporters=2)
    for name, ago_ms, fails, calls in (("gw-2", 16_001, 1, (1, 0)), ("gw-1", 16_000, 4, (3, 1))):
        store = one_real.store(name, now_ms=now_ms - ago_ms)
        for each in (Provider("openai", ("gpt-4o", "gpt-4o-mini"), weight=2.0), Provider("azure", ("gpt-4o",))):
            store.register(each, circuit)
        results = [Result("openai", Outcome.FAILURE, 108.0, 1, reason="http_503") for _ in range(fails)]
        store.record([Batch("openai", 1, results, UnderWay(*calls))])
    one_real.store().override("openai", "drain", 1_800_000, 0.0, "alice@ops-1", "slow since noon")
    one_real.store("worker-1").campaign(15_000)
    sees, saw = {"openai": "open 2", "azure": "closed 1"}, {"openai": "closed 1", "azure": "closed 1"}
    for name, role, host, pid, view, ago_ms in (
        ("gw-1", "gateway", "node-a", 4242, sees, 4_000),
        ("gw-2", "gateway", "node-b", 4243, saw, 2_000),
        ("gw-3", "gateway", "node-c", 4244, {"azure": "closed 1"}, 47_000),
        ("worker-1", "leader", "node-a", 4245, sees, 1_000),
    ):
        store = one_real.store(name, now_ms=now_ms - ago_ms)
        store.say_present(Presence(store.session, name, role, "0.2.0", host, pid, 3 * 3_600_000, view=view))
    return one_real


@pytest.mark.parametrize(("command", "code"), [("redis-router status openai", 0), ("redis-router replicas", 1)])
def test_who_looks_closer_sees_what_the_page_shows(a_bad_day, capsys, command, code):
    """All but times, word for word."""
    ((_, shown),) = [each for each in COMMANDS if each[0] == command]
    where = ["--redis", patient(a_bad_day.url.replace("router:password@", "")), "--namespace", a_bad_day.namespace]
    assert cli.main([*shlex.split(command)[1:], *where]) == code
    assert masked(capsys.readouterr().out) == masked(shown)


def masked(text):
    """Numbers, times and versions are of the moment, the address is a test's."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    text = re.sub(r"(127\.0\.0\.1|localhost):\d+", "ADDRESS", text)
    text = re.sub(r" +", " ", text)
    return re.sub(r"(Redis|Valkey) \d[\d.]*", "VERSION", re.sub(r"\b\d+(\.\d+)? (ms|s|min|h|MB)\b", "SOME", text))


def test_the_doctor_prints_what_the_page_shows(capsys):
    """On a server that evicts, without a worker, half an hour after a circuit opened."""
    ((_, shown),) = [(command, output) for command, output in COMMANDS if command == "redis-router doctor"]
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with EmbeddedServer(next(iter(REAL.values())), *options) as running, connect(running.url) as client:
        now_ms, _ = RedisStore(client, "rr", "gw").leader()
        store = RedisStore(client, "rr", "gw", now_ms=now_ms - 1_800_000)
        store.register(Provider("openai", ("gpt-4o",)), CircuitConfig(consecutive_failure_limit=1))
        recorded(store, "openai", 1, result("openai", False))
        assert cli.main(["doctor", "--redis", patient(running.url)]) == 1
    assert masked(capsys.readouterr().out) == masked(shown)


def test_the_doctors_checks_are_those_of_the_page():
    """By their names, in their order, with what they see to."""
    told = [(row[0].strip("`"), row[1]) for row in rows(section("docs/command-line.md", "doctor"))]
    assert told == [(check.name, check.title) for check in CHECKS]


def test_the_workers_options_are_those_of_the_parser():
    """With their defaults, in their order."""
    rows = re.findall(r"^\| `--([\w-]+)` \| ([^|]*)\|", section("docs/command-line.md", "worker"), re.MULTILINE)
    told = {name.replace("-", "_"): default.strip() for name, default in rows}
    known = vars(cli.parser().parse_args(["worker"]))
    assert told.keys() == known.keys() - {"run", "redis", "namespace"}
    for name, default in told.items():
        if default.isdecimal():
            assert float(default) == known[name], name


def commands_of(parser, path=""):
    """Every parser, with the words that lead to it."""
    yield path, parser
    for action in actions_of(parser):
        for name, command in (action.choices if isinstance(action.choices, Mapping) else {}).items():
            yield from commands_of(command, f"{path} {name}".strip())


@pytest.mark.parametrize(("path", "command"), list(commands_of(cli.parser())))
def test_every_help_is_whole(path, command):
    """What the command is for, and each of its options; what looks or acts has --json."""
    assert command.description
    for action in actions_of(command):
        assert action.help or isinstance(action.choices, Mapping), action.dest
    options = {option for action in actions_of(command) for option in action.option_strings}
    assert "--json" in options or path in ("", "config", "completion", "demo", "gateway", "watch")
