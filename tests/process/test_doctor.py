"""`redis-router doctor` on real servers: each finding where it is to be made, and not where all is well."""

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import redis

from redis_router import CircuitConfig, HealthChecker, Operator, Provider, RedisUnavailable, cli
from redis_router.circuit.record import SCHEMA
from redis_router.cli.checkup import CHECKS, fleet, server
from redis_router.store import server as looked_at
from redis_router.store.connect import connect
from redis_router.store.opening import open_store
from redis_router.store.presence import GATEWAY, Presence
from redis_router.store.server import Node
from redis_router.testing.server import EmbeddedServer, free_port
from tests.conftest import REAL, RIGHTS
from tests.support import eventually, recorded, result
from tests.support.documents import said_once
from tests.support.servers import cluster, sentinels

MORE = said_once(r"`redis-router doctor` needs `([^`]+)`")
"""What the documents say that it needs beside the library's rights."""
WEEK_MS = 7 * 86_400_000
ONCE = CircuitConfig(consecutive_failure_limit=1)


@pytest.fixture
def doctor(capsys):
    """Runs it: the exit code, and what it found, by check."""

    def run(url, namespace="rr"):
        patient = f"{url}{'&' if '?' in url else '?'}socket_timeout=20&socket_connect_timeout=20"
        capsys.readouterr()
        code = cli.main(["doctor", "--redis", patient, "--namespace", namespace, "--json"])
        found = {}
        for each in json.loads(capsys.readouterr().out):
            assert each.keys() == {"check", "status", "found", "advice"}
            assert each["found"]
            assert each["status"] == "ok" or each["advice"]
            found.setdefault(each["check"], []).append(each)
        statuses = {each["status"] for findings in found.values() for each in findings}
        assert code == ("error" in statuses)
        assert statuses <= {"ok", "warning", "error"}
        return found

    return run


@pytest.fixture
def admin(one_real):
    """The URL of an operator who may do everything."""
    return one_real.url.replace("router:password@", "")


def only(findings, status, *words):
    """One finding of this status; it says these words. Its advice."""
    (found,) = findings
    assert found["status"] == status, found
    for word in words:
        assert word in found["found"], found
    return found["advice"]


@contextmanager
def own_server(*options):
    """A server with settings of its own, and a client that may do everything."""
    with EmbeddedServer(next(iter(REAL.values())), *options) as running, connect(running.url) as client:
        yield running, client


@pytest.fixture
def says(monkeypatch):
    """From now on INFO has these lines, too."""

    def change(**lines):
        real = Node.info
        monkeypatch.setattr(Node, "info", lambda node: {**real(node), **lines})

    return change


def everything(client):
    """What stands in Redis, byte for byte but for the time that keys have left."""
    return {key: (client.type(key), client.memory_usage(key, samples=0)) for key in client.keys("*")}


# The whole


def test_a_fleet_that_is_well(one_real, admin, doctor):
    """Every check is made, once, and nothing is to be done."""
    one_real.store().register(Provider("openai", ("m",)), CircuitConfig())
    recorded(one_real.store(), "openai", 1, result("openai", True))
    worker = HealthChecker(admin, one_real.namespace, worker="worker-1")
    assert worker.run_once().leader
    found = doctor(admin, one_real.namespace)
    worker.stop()
    assert list(found) == [check.name for check in CHECKS]
    assert {name: [each["status"] for each in said] for name, said in found.items()} == {name: ["ok"] for name in found}
    only(found["worker"], "ok", "worker-1 leads for", "its lease ends in")
    only(found["connection"], "ok", "on this machine", " ms")
    only(found["keys"], "ok", "records: 1, logs of events: 1, sequence numbers: 1")


@pytest.mark.parametrize("lacks", ["", "-del -pexpire -hdel -zrem", "-eval -evalsha -hset", "-@all"])
def test_it_leaves_nothing_behind(doctor, lacks):
    """No key comes, goes or changes, whatever its user may not do."""
    with own_server() as (running, client):
        client.execute_command("ACL", "SETUSER", "user", "on", ">password", "~*", "&*", "+@all", *lacks.split())
        store = open_store(client, "rr", "gw")
        store.register(Provider("openai", ("m",)), ONCE)
        recorded(store, "openai", 1, result("openai", False))
        before = everything(client)
        assert before
        heard = store.subscribe()
        assert heard.next(20.0) == "subscribed"
        found = doctor(running.url.replace("://", "://user:password@"))
        assert found["permissions"][0]["status"] == ("error" if lacks else "ok")
        assert everything(client) == before
        assert lacks == "-@all" or heard.next(20.0) == "alive"  # a message that says nothing
        heard.close()


def test_for_people(admin, one_real, capsys):
    """A line for each finding, words for marks, the advice below, the sums at the end; no escape sequence."""
    one_real.client().set(f"{one_real.namespace}:\x1b[2Jmine", "x")
    code = cli.main(["doctor", "--redis", admin, "--namespace", one_real.namespace])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith("ok       connection   Redis at ")
    (line,) = [number for number, line in enumerate(lines) if line.startswith("WARNING  keys")]
    assert r"\x1b[2Jmine" in lines[line]
    assert lines[line + 1].lstrip().startswith("-> ")
    assert re.fullmatch(r"errors: 0, warnings: 2, ok: \d+", lines[-1])


def test_a_process_of_its_own(one_real, admin):
    """Exit codes: 1 with an error, 0 with warnings, 2 where the command itself is wrong."""
    command = [sys.executable, "-m", "redis_router", "doctor", "--namespace", one_real.namespace, "--redis"]
    nowhere = f"redis://127.0.0.1:{free_port()}"
    for url, code in ((admin, 0), (nowhere, 1), ("memory://", 2)):
        done = subprocess.run([*command, url], capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr


# The connection


def test_no_server(doctor):
    """One clear error, and nothing else is looked at."""
    found = doctor(f"redis://127.0.0.1:{free_port()}")
    assert list(found) == ["connection"]
    assert "start Redis" in only(found["connection"], "error", "127.0.0.1", "refused")


def test_a_server_that_hangs(one_real, admin, capsys):
    """Told by the library's own time-out."""
    with one_real.away():
        assert cli.main(["doctor", "--redis", admin, "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert "Timeout" in found["found"]


def test_a_server_without_room_for_connections(doctor):
    """It is there, and takes no more of them."""
    with own_server("--maxclients", "1") as (running, client):
        client.ping()  # holds the one that there is
        found = doctor(running.url)
    assert "maxclients" in only(found["connection"], "error", "max number of clients")


def test_a_server_that_is_busy_with_a_script(doctor):
    """Redis answers others after `busy-reply-threshold`, and refuses what they ask."""
    with own_server("--lua-time-limit", "10") as (running, client), ThreadPoolExecutor() as pool:
        endless = pool.submit(client.execute_command, "EVAL", "while true do end", 0)
        with connect(running.url) as other:

            def busy():
                try:
                    return not other.ping()
                except redis.RedisError as error:
                    return "BUSY" in str(error)

            eventually(busy, "it is busy")
            assert "SCRIPT KILL" in only(doctor(running.url)["connection"], "error", "BUSY")
            other.script_kill()
        with pytest.raises(redis.RedisError):
            endless.result(20)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("BusyLoadingError: Redis is loading the dataset in memory", "wait"),
        ("ConnectionError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "ssl_ca_certs"),
        ("ResponseError: MASTERDOWN Link with MASTER is down", "master of this replica"),
        ("ConnectionError: Error 111 connecting", "start Redis"),
    ],
)
def test_what_else_a_server_says_that_does_not_serve(admin, doctor, monkeypatch, said, advice):
    """Each has an advice of its own."""

    def refuse(node):
        raise RedisUnavailable(f"Redis cannot serve: {said}")

    monkeypatch.setattr(Node, "round_trip_ms", refuse)
    assert advice in only(doctor(admin)["connection"], "error", said)


@pytest.mark.parametrize("login", ["router:wrong", "nobody:password"])
def test_a_wrong_login(admin, doctor, login):
    """Neither the password nor the login is repeated."""
    found = doctor(admin.replace("://", f"://{login}@"))
    assert list(found) == ["connection"]
    assert "user and password" in only(found["connection"], "error", "invalid username")
    assert "wrong" not in str(found)


def test_a_database_that_is_not_allowed(one_real, doctor):
    """SELECT is a right of its own."""
    found = doctor(one_real.url.replace("/0", "/1"), one_real.namespace)
    assert list(found) == ["connection"]
    assert only(found["connection"], "error", "select") == "ACL SETUSER router +select"


@pytest.mark.parametrize(
    ("url", "way", "foreign"),
    [
        ("redis://127.0.0.1:6379/0", "on this machine", False),
        ("redis://user:p%40ss@10.1.2.3/0?socket_timeout=1", "not encrypted", False),
        ("redis://:secret@8.8.8.8", "not encrypted, over a public network", True),
        ("rediss://8.8.8.8/0", "encrypted", False),
        ("unix:///run/redis.sock", "through a socket of this machine", False),
        ("redis+sentinel://10.0.0.1:26379,9.9.9.9/mymaster/0", "not encrypted, over a public network", True),
        ("redis+cluster://[2001:4860:4860::8888]:6379", "not encrypted, over a public network", True),
        ("rediss+cluster://8.8.8.8:6379", "encrypted", False),
    ],
)
def test_the_way_there(monkeypatch, url, way, foreign):
    """What can be read on the way is a warning."""
    assert server._way(url) == (way, foreign)
    nodes = [SimpleNamespace(round_trip_ms=lambda: 1.0)]
    (said,) = server.connection(SimpleNamespace(store=SimpleNamespace(where="Redis"), nodes=nodes, url=url))
    assert said.status == ("warning" if foreign else "ok")
    assert ("rediss://" in said.advice) == foreign


def test_a_slow_answer(monkeypatch, admin, doctor):
    """The median of some, so that one of them is none."""
    took = iter([1.0, 900.0, 1.0, 900.0, 1.0, 900.0, 900.0, 900.0, 1.0, 1.0])
    monkeypatch.setattr(Node, "round_trip_ms", lambda node: next(took))
    only(doctor(admin)["connection"], "ok", "1.00 ms")
    assert "nearer" in only(doctor(admin)["connection"], "warning", "900.00 ms")


# Replicas


def spoken(store, name, seen_ms, **changes):
    """A word of a process, at that moment."""
    store.now_ms = seen_ms
    store.say_present(replace(Presence(f"{name}.1", name, GATEWAY, "1.0.0", "h", 1, 0), **changes))


def test_replicas_that_see_the_circuits_alike(one_real, admin, doctor):
    """How many there are, and their version."""
    now_ms, _ = one_real.store().leader()
    for name, role in (("gw-1", GATEWAY), ("worker-1", "leader")):
        spoken(one_real.store(name), name, now_ms, role=role)
    found = doctor(admin, one_real.namespace)
    only(found["replicas"], "ok", "replicas: 1, workers: 1, differ: none; version 1.0.0")


def test_replicas_that_disagree(one_real, admin, doctor):
    """A warning for each, with what it sees; that one is silent says nothing of the versions."""
    now_ms, _ = one_real.store().leader()
    store = one_real.store("first", now_ms=now_ms - 20_000)
    store.register(Provider("openai", ("m",)), ONCE)
    recorded(store, "openai", 1, result("openai", False))
    spoken(one_real.store("a"), "behind-1", now_ms, view={"openai": "closed 1"})
    spoken(one_real.store("b"), "alone-1", now_ms, own={"openai": "open"})
    spoken(one_real.store("c"), "silent-1", now_ms - 60_000, version="0.9.0")
    advice = {}
    for each in doctor(admin, one_real.namespace)["replicas"]:
        assert each["status"] == "warning"
        advice[each["found"].partition(":")[0]] = each["advice"]
        assert "last seen" in each["found"]
    assert {name: words.split(" ")[0] for name, words in advice.items()} == {
        "alone-1": "look",
        "behind-1": "look",
        "silent-1": "see",
    }


def test_mixed_versions(one_real, admin, doctor):
    """As in a deploy that was not ended."""
    now_ms, _ = one_real.store().leader()
    for name, version in (("gw-1", "1.0.0"), ("gw-2", "1.1.0"), ("gw-3", "1.1.0")):
        spoken(one_real.store(name), name, now_ms, version=version)
    found = doctor(admin, one_real.namespace)
    assert "deploy" in only(found["replicas"], "warning", "1 run 1.0.0, 2 run 1.1.0")


# The server


@pytest.mark.parametrize(
    ("lines", "status", "found"),
    [
        ({"redis_version": "7.0.15"}, "ok", "Redis 7.0.15"),
        ({"redis_version": "8.2.1"}, "ok", "Redis 8.2.1"),
        ({"redis_version": "6.2.14"}, "error", "Redis 6.2.14"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, "ok", "Valkey 9.1.0"),
        ({"redis_version": "6.3.4", "executable": "/usr/bin/keydb-server"}, "warning", "KeyDB 6.3.4"),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.2"}, "warning", "Dragonfly df-v1.2"),
    ],
)
def test_versions(lines, status, found):
    """Redis from 7.0, or Valkey."""
    (said,) = server._version(SimpleNamespace(), lines)
    assert (said.status, said.found) == (status, found)


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru", "volatile-ttl"])
def test_policies_that_leave_records_alone(doctor, policy):
    """With a maxmemory, too: a record has no time to live."""
    with own_server("--maxmemory", "100mb", "--maxmemory-policy", policy) as (running, _):
        found = doctor(running.url)
    only(found["eviction"], "ok", policy)
    only(found["memory"], "ok", "maxmemory 100.0 MB")


def test_a_policy_that_evicts_records(doctor):
    """An error with a maxmemory, a warning before there is one; and the advice helps."""
    with own_server("--maxmemory-policy", "allkeys-lru") as (running, client):
        only(doctor(running.url)["eviction"], "warning", "allkeys-lru")
        client.config_set("maxmemory", "100mb")
        advice = only(doctor(running.url)["eviction"], "error", "allkeys-lru", "100.0 MB", "0 keys evicted")
        client.execute_command(*advice.partition(",")[0].split())
        only(doctor(running.url)["eviction"], "ok", "noeviction")


def test_memory_that_is_full(doctor):
    """Near its end a warning, at its end an error: then Redis refuses writes."""
    with own_server("--maxmemory", "1mb") as (running, client):
        only(doctor(running.url)["memory"], "error", "maxmemory 1.0 MB", "refuses writes")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
        only(doctor(running.url)["memory"], "warning", "used of maxmemory")


@pytest.mark.parametrize(("ahead", "side"), [(90, "behind"), (-90, "ahead of")])
def test_clocks_that_differ(admin, doctor, monkeypatch, ahead, side):
    """This machine's is moved."""
    only(doctor(admin)["clock"], "ok", "ms")
    clocks = SimpleNamespace(time=lambda: time.time() + ahead, perf_counter=time.perf_counter)
    monkeypatch.setattr(looked_at, "time", clocks)
    assert "NTP" in only(doctor(admin)["clock"], "warning", f"90 s {side}")


def test_persistence(doctor):
    """What a restart loses, by how Redis saves."""
    with own_server() as (running, client):
        assert "appendonly yes" in only(doctor(running.url)["persistence"], "ok", "save off", "loses everything")
        client.config_set("save", "3600 1")
        only(doctor(running.url)["persistence"], "ok", "save 3600 1", "after the last save")
        client.config_set("appendonly", "yes")
        assert only(doctor(running.url)["persistence"], "ok", "appendonly yes") == ""


def test_saving_that_fails(admin, doctor, says):
    """Redis would refuse writes."""
    says(rdb_last_bgsave_status="err")
    error, state = doctor(admin)["persistence"]
    assert "disk" in only([error], "error", "rdb_last_bgsave_status: err")
    only([state], "ok", "save off")


def test_a_server_that_loads_its_data(admin, doctor, says):
    """It serves nobody meanwhile."""
    says(loading=1)
    only(doctor(admin)["persistence"], "error", "loading")


def test_a_replica_and_its_master(doctor):
    """The master says that it has one; the replica refuses writes."""
    with own_server() as (running, client):
        only(doctor(running.url)["replication"], "ok", "without replicas")
        with own_server("--replicaof", f"127.0.0.1 {running.port}") as (replica, _):
            found = doctor(replica.url)
            assert "master" in only(found["replication"], "error", f"a replica of 127.0.0.1:{running.port}")
            only(found["permissions"], "ok")
        client.config_set("min-replicas-to-write", 1)
        advice = only(doctor(running.url)["replication"], "error", "min-replicas-to-write is 1", "0 of its replicas")
        client.execute_command(*advice.partition(", or ")[2].split())
        only(doctor(running.url)["replication"], "ok")


def test_a_failover_under_way(admin, doctor, says):
    """Its state, beside that of the replicas."""
    says(master_failover_state="waiting-for-sync", connected_slaves=2)
    under_way, state = doctor(admin)["replication"]
    only([under_way], "warning", "waiting-for-sync")
    only([state], "ok", "with 2 of its replicas")


def test_what_info_cannot_mean(admin, doctor, says):
    """Some server's own idea of INFO: named, and the other checks go on."""
    says(maxmemory="plenty")
    found = doctor(admin)
    only(found["eviction"], "warning", "cannot read", "plenty")
    only(found["replication"], "ok")


# Rights


def test_the_librarys_user(one_real, doctor):
    """It may do what the library needs; what it may not look at is said, and is no error."""
    one_real.store().register(Provider("openai", ("m",)), CircuitConfig())
    found = doctor(one_real.url, one_real.namespace)
    only(found["permissions"], "ok", "user router")
    denied = {name for name, said in found.items() if "not allowed to look" in said[0]["found"]}
    assert denied == {"version", "eviction", "memory", "persistence", "replication", "unused", "keys"}
    assert "operations.md" in only(found["version"], "warning", "'info'")


def test_the_rights_that_the_documents_name(one_real, admin, doctor):
    """With these nothing is hidden."""
    one_real.store().register(Provider("openai", ("m",)), CircuitConfig())
    user, ns = f"u{one_real.namespace}", one_real.namespace
    rights = (f"~{ns}:*", f"&{ns}:events", *RIGHTS.split(), *MORE.split())
    one_real.client().execute_command("ACL", "SETUSER", user, "on", ">password", *rights)
    found = doctor(admin.replace("://", f"://{user}:password@"), ns)
    one_real.client().execute_command("ACL", "DELUSER", user)
    assert "not allowed" not in str(found)
    only(found["permissions"], "ok", user)


@pytest.mark.parametrize("right", [right for right in RIGHTS.split() if right.startswith("+")])
def test_a_right_that_lacks(one_real, admin, doctor, right):
    """Each one that the documents give the user is missed, by its name; and the advice helps."""
    user, ns, client = f"u{one_real.namespace}", one_real.namespace, one_real.client()
    rights = (f"~{ns}:*", f"&{ns}:events", *RIGHTS.split(), f"-{right[1:]}")
    client.execute_command("ACL", "SETUSER", user, "on", ">password", *rights)
    url = admin.replace("://", f"://{user}:password@")
    advice = only(doctor(url, ns)["permissions"], "error", f"user {user} is refused: {right[1:]}")
    assert advice.endswith(f" {right}")
    client.execute_command(*advice.split())
    only(doctor(url, ns)["permissions"], "ok")
    client.execute_command("ACL", "DELUSER", user)


@pytest.mark.parametrize("lacks", ["~", "&"])
def test_keys_that_are_not_allowed(one_real, admin, doctor, lacks):
    """Another namespace's keys, or channel."""
    user, ns, client = f"u{one_real.namespace}", one_real.namespace, one_real.client()
    allowed = [f"{kind}other:*" if kind == lacks else f"{kind}{ns}:*" for kind in "~&"]
    client.execute_command("ACL", "SETUSER", user, "on", ">password", *allowed, *RIGHTS.split())
    url = admin.replace("://", f"://{user}:password@")
    advice = only(doctor(url, ns)["permissions"], "error", f"{ns}:events" if lacks == "&" else f"{ns}:{{name}}:health")
    client.execute_command(*advice.split())
    only(doctor(url, ns)["permissions"], "ok")
    client.execute_command("ACL", "DELUSER", user)


# The worker, circuits, records


def test_workers(one_real, admin, doctor):
    """None ever, one that leads, none any more."""
    assert "redis-router worker" in only(doctor(admin, one_real.namespace)["worker"], "warning", "no worker ever led")
    now_ms, _ = one_real.store().leader()
    one_real.store("worker-7", now_ms - 600_000).campaign(15_000)
    only(doctor(admin, one_real.namespace)["worker"], "warning", "no worker leads since 10 min", "worker-7")
    one_real.store("worker-8").campaign(15_000)
    only(doctor(admin, one_real.namespace)["worker"], "ok", "worker-8 leads for")


def test_circuits_that_are_overdue(one_real, admin, doctor):
    """Half an hour ago one opened for 30 s: nobody moves it; a probe that fails holds it back; another has its time."""
    now_ms, _ = one_real.store().leader()
    for name, opened_ms in (("openai", now_ms - 1_800_000), ("azure", now_ms)):
        store = one_real.store(now_ms=opened_ms)
        store.register(Provider(name, ("m",)), ONCE)
        recorded(store, name, 1, result(name, False))
    advice = only(doctor(admin, one_real.namespace)["circuits"], "error", "openai", "min, and nobody moves it")
    assert "start a worker" in advice
    one_real.client().hset(one_real.keys.health("openai"), "probe_result", "HTTP 503")
    only(doctor(admin, one_real.namespace)["circuits"], "warning", "openai", "its probe fails: HTTP 503")
    one_real.store().half_open("openai")
    only(doctor(admin, one_real.namespace)["circuits"], "ok", "circuits open: 1 of 2")


def test_records_that_cannot_be_used(one_real, admin, doctor):
    """A newer schema, a word that is none, a record that is gone: each by its provider's name."""
    for name in ("newer", "wrong", "gone", "well"):
        one_real.store().register(Provider(name, ("m",)), CircuitConfig())
    only(doctor(admin, one_real.namespace)["records"], "ok", "providers: 4")
    client, keys = one_real.client(), one_real.keys
    client.hset(keys.health("newer"), "schema", SCHEMA + 1)
    client.hset(keys.health("wrong"), "circuit_state", "ajar")
    client.delete(keys.health("gone"))
    newer, wrong, gone = doctor(admin, one_real.namespace)["records"]
    assert "upgrade" in only([newer], "error", f"newer: schema {SCHEMA + 1} is newer than {SCHEMA}")
    assert f"DEL '{keys.health('wrong')}'" in only([wrong], "error", "'wrong'", "ajar")
    assert "gateway" in only([gone], "warning", "gone: registered, and without a record")


def test_an_empty_namespace(one_real, admin, doctor):
    """Well, and maybe not the one that was meant."""
    assert "compare --namespace" in only(doctor(admin, one_real.namespace)["records"], "ok", "providers: 0")


def test_thresholds_that_were_not_taken(one_real, admin, doctor):
    """Until they count, or the weight does."""
    provider = Provider("openai", ("m",), weight=2)
    one_real.store().register(provider, CircuitConfig())
    only(doctor(admin, one_real.namespace)["thresholds"], "ok")
    assert one_real.store().register(provider, ONCE).status == "declined"
    assert "circuit_version" in only(doctor(admin, one_real.namespace)["thresholds"], "warning", "openai")
    one_real.store().register(provider, ONCE, circuit_version=1)
    only(doctor(admin, one_real.namespace)["thresholds"], "ok")


def test_overrides_without_an_end(one_real, admin, doctor):
    """Each with who said it, and why; one that ends by itself is well."""
    for name in ("openai", "azure", "mistral"):
        one_real.store().register(Provider(name, ("m",)), CircuitConfig())
    with Operator(admin, one_real.namespace) as operator:
        operator.drain("openai", seconds=60, by="alice", reason="short")
        only(doctor(admin, one_real.namespace)["overrides"], "ok", "in force for a time: 1")
        operator.override("openai", "force_closed", seconds=None, by="alice", reason="ticket 4711")
        operator.override("azure", "weight", weight=0.2, seconds=None, by="bob")
        one_real.store().update("mistral", {"available": "0"})
        azure, mistral, openai, others = doctor(admin, one_real.namespace)["overrides"]
        assert "redis-router ready azure --namespace" in only([azure], "warning", "azure: weight 0.2 for ever, by bob")
        assert "redis-router ready mistral --namespace" in only([mistral], "warning", "mistral: an operator")
        only([openai], "warning", "openai: force_closed for ever, by alice: ticket 4711")
        only([others], "ok", "in force for a time: 0")
        operator.end_override("*")
    one_real.store().update("mistral", {"available": "1"})
    only(doctor(admin, one_real.namespace)["overrides"], "ok")


def test_providers_that_nobody_serves(one_real, admin, doctor):
    """For a week and more; what a gateway served since, and tombstones, are none."""
    now_ms, _ = one_real.store().leader()
    for name, at_ms in (("old", now_ms - 2 * WEEK_MS), ("new", now_ms - 1000), ("away", now_ms - 2 * WEEK_MS)):
        store = one_real.store(now_ms=at_ms)
        store.register(Provider(name, ("m",)), CircuitConfig())
        store.seen([name], at_ms)
    one_real.store().deregister("away")
    advice = only(doctor(admin, one_real.namespace)["unused"], "warning", "old: registered by no replica for 14 days")
    assert "redis-router purge" in advice
    one_real.store().deregister("old")
    only(doctor(admin, one_real.namespace)["unused"], "ok")


def test_keys_of_others(one_real, admin, doctor):
    """Those of a namespace with a longer name are none of ours, and that is well."""
    client, ns = one_real.client(), one_real.namespace
    open_store(client, f"{ns}:eu", "gw").register(Provider("openai", ("m",)), CircuitConfig())
    only(doctor(admin, ns)["keys"], "ok", "records: 0")
    for number in range(7):
        client.set(f"{ns}:cache:{number}", "x")
    foreign, count = doctor(admin, ns)["keys"]
    only([foreign], "warning", "7 keys", f"{ns}:cache:0, ", "and 2 more")
    only([count], "ok")


def test_sessions_that_come_and_go(one_real, admin, doctor, monkeypatch):
    """A gateway that starts again and again leaves a sequence number each time, for an hour."""
    monkeypatch.setattr(fleet, "MANY_SESSIONS", 3)
    one_real.store().register(Provider("openai", ("m",)), CircuitConfig())
    for number in range(4):
        only(doctor(admin, one_real.namespace)["keys"], "ok", f"sequence numbers: {number}")
        recorded(one_real.store(), "openai", 1, result("openai", True))
    assert "again and again" in only(doctor(admin, one_real.namespace)["keys"], "warning", "openai: 4 sessions")


def test_a_key_of_another_type(one_real, admin, doctor):
    """Where the registrations should be: named, without a traceback, and the checks go on."""
    one_real.client().set(one_real.keys.seen, "mine")
    one_real.store().register(Provider("openai", ("m",)), CircuitConfig())
    found = doctor(admin, one_real.namespace)
    only(found["unused"], "error", "WRONGTYPE")
    only(found["keys"], "ok")


def test_redis_goes_away_meanwhile(one_real, admin, capsys, monkeypatch):
    """From then on each check has no answer."""
    with own_server() as (running, _):
        real = Node.info

        def last_words(node):
            said = real(node)
            running.stop()
            return said

        monkeypatch.setattr(Node, "info", last_words)
        assert cli.main(["doctor", "--redis", running.url, "--json"]) == 1
    found = {each["check"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["version"]["status"] == "ok"
    assert found["worker"]["status"] == "error"
    assert "no answer" in found["worker"]["found"]


# A cluster, and sentinels


def test_a_cluster(doctor):
    """Each master is looked at; what is wrong is said by its name."""
    with cluster() as nodes:
        found = doctor(nodes.url)
        assert {name for name, said in found.items() if said[0]["status"] != "ok"} == {"worker"}
        with closing(connect(nodes.url)) as client:
            port = client.get_primaries()[-1].port
        nodes.ask(port, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        for each in nodes.servers:
            lacks = ("-hset",) if each == port else ()
            nodes.ask(each, "ACL", "SETUSER", "user", "on", ">password", "~*", "&*", "+@all", *lacks)
        found = doctor(nodes.url.replace("://", "://user:password@"))
        only(found["eviction"], "warning", f"127.0.0.1:{port}: ")
        only(found["permissions"], "error", f"127.0.0.1:{port}: user user is refused: hset")


def test_behind_sentinels(doctor):
    """The master that they name."""
    with sentinels() as servers:
        found = doctor(servers.url)
        only(found["connection"], "ok", "sentinel's master mymaster")
        only(found["replication"], "ok", "master with 1 of its replicas")
