"""docs/operations.md says what is true: its commands run, and its output is real. Symptoms: test_runbook.py."""

import argparse
import logging
import re
import shlex
import signal
import subprocess
import sys

import pytest

from redis_router import RECOMMENDED, AccessDenied, CircuitConfig, HealthChecker, Outcome, Provider, Router, cli
from redis_router.circuit.outcome import Result
from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from redis_router.worker.checker import STUCK_SECONDS
from redis_router.worker.duties import FAILURE_THRESHOLD, SUCCESS_THRESHOLD
from tests.conftest import RIGHTS, server
from tests.support import eventually, recorded, result
from tests.support.documents import PAGES, rows, section
from tests.support.processes import WorkerProcess

PAGE = PAGES["docs/operations.md"]
SNIPPETS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
LOCAL = "redis://localhost:6379/0"


def snippets(kind: str) -> list[str]:
    """Those of a kind, in the order of the page."""
    return [text for each, text in SNIPPETS if each == kind]


def test_every_snippet_is_of_a_kind_that_is_tested():
    """Redis's own commands, shell commands, output, Python; each of them is run below."""
    kinds = [kind for kind, _ in SNIPPETS]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"": 3, "sh": 3, "console": 3, "python": 2}


# The ACL, and Redis's own commands


def test_a_password_is_changed_without_a_gap(one_real):
    """Both hold between the two lines, when replicas are deployed anew; then only the new one opens a connection."""
    first, second = snippets("")[1].splitlines()
    user = f"u{one_real.namespace}"
    old, new = (one_real.url.replace("router:password", f"{user}:{word}") for word in ("password", "new-password"))

    def records_a_result(url: str) -> bool:
        with Router(url, namespace=one_real.namespace) as router:
            router.register_provider(Provider("openai", ("m",)))
            router.record_result("openai", success=True, latency_ms=5.0)
            return router.flush()

    with connect(server(one_real.name).url) as admin:
        admin.execute_command("ACL", "SETUSER", user, "on", ">password", "~*", "&*", "+@all")
        assert records_a_result(old)
        admin.execute_command(*shlex.split(first.replace("router", user)))
        assert records_a_result(old)
        assert records_a_result(new)
        admin.execute_command(*shlex.split(second.replace("router", user)))
        assert records_a_result(new)
        with pytest.raises(AccessDenied):
            Router(old, namespace=one_real.namespace).start()
        admin.execute_command("ACL", "DELUSER", user)


# The worker


def test_the_workers_options_are_those_of_the_command():
    """Every one, with its default."""
    (parsers,) = [a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    worker = parsers.choices["worker"]
    options = {a.option_strings[-1]: a.default for a in worker._actions if a.dest != "help"}
    documented = {
        row[0].strip("`"): row[1]
        for row in rows(section("docs/operations.md", "The worker"))
        if row[0].startswith("`--")
    }
    assert documented.keys() == options.keys()
    words = {"none": ([], None), "unset": (None,), "off": (False,), "host and pid": (None,)}
    for option, text in documented.items():
        if option != "--redis":  # which the environment of the tests may set
            default = options[option]
            assert (default in words[text]) if text in words else (text.strip("`") == str(default).removesuffix(".0"))


def test_the_numbers_of_probes_are_those_of_the_code():
    """In words."""
    words = {2: "two", 3: "Three"}
    assert f"{words[FAILURE_THRESHOLD]} failures in a row" in PAGE
    assert f"{words[SUCCESS_THRESHOLD]} passes put it back" in PAGE
    assert f"no sign of life for {STUCK_SECONDS:g} s" in PAGE


def test_a_worker_answers_and_ends_as_told(one_real):
    """Its pages' words, and 0 after SIGTERM, with the lease given back."""
    pages = {row[0] or "": row for row in rows(section("docs/operations.md", "The worker")) if row[0].startswith("`/")}
    assert pages["`/healthz`"][1:3] == ["200", "`alive`"]
    assert pages["`/readyz`"][1:3] == ["200", "`leader` or `standby`"]
    worker = WorkerProcess(one_real.url, one_real.namespace)
    try:
        worker.wait_ready()
        eventually(lambda: worker.leads, "it leads")
        assert worker.get("/healthz") == (200, "alive")
        with one_real.away():
            eventually(lambda: worker.get("/readyz") == (503, "Redis is not reachable"))
        eventually(lambda: worker.get("/readyz")[0] == 200)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(30) == 0
    finally:
        worker.end()
    _, leader = one_real.store().leader()
    assert leader is None or leader.remaining_ms <= 0


def test_a_worker_that_may_not_exits_with_two(one_real):
    """A wrong password is one line."""
    url = one_real.url.replace("password", "wrong")
    command = [sys.executable, "-m", "redis_router", "worker", "--redis", url, "--metrics-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", [line for text in snippets("sh") for line in text.splitlines()])
def test_commands_are_understood(line):
    """The program's name, the command, its options. Those that end by themselves are run below."""
    program, *arguments = shlex.split(line)
    assert program == "redis-router"
    assert cli.parser().parse_args(arguments).redis == LOCAL


def run(one_real, line: str, namespace: str) -> subprocess.CompletedProcess[str]:
    """A command of the page, as an operator who may do anything; only the server and the namespace are ours."""
    admin = server(one_real.name).url
    arguments = shlex.split(line.replace(LOCAL, admin))[1:]
    if "--redis" not in arguments:
        arguments += ["--redis", admin]
    arguments += ["--namespace", namespace]
    command = [sys.executable, "-m", "redis_router", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


# Looking in


@pytest.fixture
def looked_at(one_real):
    """What the page shows: openai has failed three times, azure's probe passes, worker-1 leads."""
    store = one_real.store("gw-1")
    store.register(Provider("openai", ("gpt-4o", "gpt-4o-mini"), weight=2.0), RECOMMENDED)
    store.register(Provider("azure", ("gpt-4o",), probe=f"tcp://127.0.0.1:{server(one_real.name).port}"), RECOMMENDED)
    recorded(store, "azure", 1, result("azure", True, latency_ms=222.6))
    began_ms, _ = store.leader()
    for seq in range(3):
        store.now_ms = began_ms + 7 * seq
        recorded(store, "openai", seq + 1, Result("openai", Outcome.FAILURE, 120.0, 1, reason="http_503"))
    worker = HealthChecker(one_real.url, one_real.namespace, worker="worker-1")
    assert worker.run_once().leader
    yield one_real
    worker.stop()


def masked(text: str) -> str:
    """Times and moments are of the moment, jitter is of chance; a column's width goes by them."""
    text = re.sub(r"(open_timeout_factor +)1\.\d+", r"\1FACTOR", text)
    text = re.sub(r"\d{13,16}", "MOMENT", text)
    text = re.sub(r"\b\d+(\.\d)? (s|min)\b", "TIME", text)
    return re.sub(r" +", " ", text)


def test_status_prints_what_the_page_shows(looked_at):
    """All but times, word for word."""
    (shown,) = [text for text in snippets("console") if "redis-router status" in text]
    done = run(looked_at, "redis-router status", looked_at.namespace)
    assert masked("$ redis-router status\n" + done.stdout) == masked(shown)


def test_the_record_is_what_the_page_shows(looked_at):
    """Its fields in their order, and all values but moments."""
    (shown,) = [text for text in snippets("console") if "HGETALL" in text]
    first, *fields = shown.splitlines()
    assert first == "$ redis-cli HGETALL 'rr:{openai}:health'"
    found = looked_at.client().hgetall(looked_at.keys.health("openai"))
    assert [f"{masked(line)}" for line in fields] == [masked(f"{name} {value}") for name, value in found.items()]


def test_an_event_is_what_the_page_shows(looked_at):
    """The last one of the log."""
    (shown,) = [text for text in snippets("console") if "XREVRANGE" in text]
    assert shown.startswith("$ redis-cli XREVRANGE 'rr:{openai}:events' + - COUNT 1\n")
    ((_, fields),) = looked_at.client().xrevrange(looked_at.keys.events("openai"), count=1)
    assert re.findall(r'\) "([^"]*)"$', shown, re.MULTILINE)[1:] == [word for pair in fields.items() for word in pair]


def test_draining_as_printed(as_a_user, one_real):
    """From a process of its own, for a fleet that it is no part of."""
    with connect(one_real.url) as client:
        RedisStore(client, "rr", "test").register(Provider("openai", ("gpt-4o",)), CircuitConfig())
        assert as_a_user(snippets("python")[0]) == ""
        events = [fields["event"] for _, fields in one_real.client().xrange("rr:{openai}:events")]
    assert events.count("override") == 2


def test_a_namespace_as_printed(as_a_user):
    """A router that is made and not started asks Redis nothing."""
    assert as_a_user(snippets("python")[1]) == ""
    parsed = [cli.parser().parse_args(shlex.split(line)[1:]) for line in snippets("sh")[1].splitlines()]
    assert {arguments.namespace for arguments in parsed} == {"staging"}


# Redis itself


def test_memory_is_about_what_the_page_says(one_real):
    """A record, a process that wrote, a full log of events."""
    store, client = one_real.store("gateway-7f-4242"), one_real.client()
    store.register(Provider("openai", ("gpt-4o",)), RECOMMENDED)
    for seq, load in enumerate((1.0, 3.0, 2.0), 1):
        learned = Result("openai", Outcome.SUCCESS, 812.5 + seq, 1, duration_ms=2513.3 + seq, load=load)
        recorded(store, "openai", seq, learned)
    for number in range(1_200):
        store.update("openai", {"weight": str(1 + number % 2)})
    used = {key: client.memory_usage(key, samples=0) for key in client.keys(f"{one_real.namespace}:{{openai}}:*")}
    (seq,) = [size for key, size in used.items() if ":seq:" in key]
    assert 600 < used[one_real.keys.health("openai")] < 1_000
    assert 100 < seq + used[one_real.keys.in_flight("openai")] < 250
    assert 30_000 < used[one_real.keys.events("openai")] < 70_000


def test_a_refused_write_means_deciding_alone(one_real, caplog):
    """What the table says of rights that are missing: said once, by that line."""
    caplog.set_level(logging.INFO, "redis_router")
    user = f"u{one_real.namespace}"
    with connect(server(one_real.name).url) as admin:
        admin.execute_command("ACL", "SETUSER", user, "on", ">password", "~*", "&*", "+@all")
        with Router(one_real.url.replace("router:", f"{user}:"), namespace=one_real.namespace) as router:
            router.register_provider(Provider("openai", ("m",)))
            assert router.flush()
            admin.execute_command("ACL", "SETUSER", user, "-evalsha")
            router.record_result("openai", success=False, latency_ms=5.0)
            eventually(lambda: not router.redis_up)
            admin.execute_command("ACL", "SETUSER", user, "+evalsha")
            eventually(lambda: router.redis_up)
        admin.execute_command("ACL", "DELUSER", user)
    assert sum("deciding alone meanwhile" in record.message for record in caplog.records) == 1


def test_what_a_hand_set_is_put_back(one_real):
    """While a gateway runs: a drain, a weight and thresholds outlive a loss of all data."""
    with Router(one_real.url, namespace=one_real.namespace) as router:
        router.register_provider(Provider("openai", ("m",)))
        router.update_health("openai", available=False, weight=3.0)
        router.set_circuit_config(CircuitConfig(open_timeout=7.0), "openai")
        eventually(lambda: router.get_health_status()["openai"].config.open_timeout == 7.0)
        client = one_real.client()
        client.delete(*client.keys(f"{one_real.namespace}:*"))
        router.record_result("openai", success=True, latency_ms=5.0)
        assert router.flush()
    found = one_real.record()
    assert (found.unavailable_reason, found.weight, found.config.open_timeout) == ("operator", 3.0, 7.0)


# Uninstalling


def test_purging_needs_the_rights_that_the_page_names(looked_at):
    """As the user of the page with these two, and nobody else's rights."""
    (more,) = re.findall(r"`redis-router purge` needs `([^`]+)`", PAGE)
    user, admin_url = f"u{looked_at.namespace}", server(looked_at.name).url
    with connect(admin_url) as admin:
        keys = (f"~{looked_at.namespace}:*", f"&{looked_at.namespace}:events")
        admin.execute_command("ACL", "SETUSER", user, "on", ">password", *keys, *RIGHTS.split(), *more.split())
        url = admin_url.replace("redis://", f"redis://{user}:password@")
        for options in ((), ("--all",), ("--all", "--yes")):
            command = [sys.executable, "-m", "redis_router", "purge", *options, "--redis", url]
            command += ["--namespace", looked_at.namespace]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
        admin.execute_command("ACL", "DELUSER", user)
    assert looked_at.client().keys(f"{looked_at.namespace}:*") == []


def test_uninstalling_as_printed(looked_at):
    """Listed first, then gone."""
    first, second = snippets("sh")[2].splitlines()
    listed = run(looked_at, first, looked_at.namespace)
    assert looked_at.keys.health("openai") in listed.stdout
    assert looked_at.client().exists(looked_at.keys.health("openai"))
    assert run(looked_at, second, looked_at.namespace).returncode == 0
    assert looked_at.client().keys(f"{looked_at.namespace}:*") == []
