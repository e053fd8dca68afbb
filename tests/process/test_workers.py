"""`redis-router worker` as an operator runs it: elections under SIGKILL and SIGTERM, its pages, its words."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise

import pytest

from redis_router import CircuitConfig, Outcome, Probe, Provider
from redis_router.circuit.outcome import Result
from redis_router.store.messages import Event
from redis_router.testing.server import EmbeddedServer, free_port
from tests.support import eventually, recorded, result, target


def leader_of(workers):
    return eventually(lambda: next((worker for worker in workers if worker.leads), None), "one worker leads")


def run(*command, timeout=30, env=None):
    """A command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "redis_router", *command], capture_output=True, text=True, timeout=timeout, env=env
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_another_takes_over(workers, one_real, how):
    """SIGKILL: when the lease ended. SIGTERM: long before it would have, exit 0. Each term has a higher epoch."""
    store = one_real.store("test")
    store.register(Provider("openai", ("m",)), CircuitConfig(consecutive_failure_limit=1, open_timeout=0.05))
    lease = 2.0 if how is signal.SIGKILL else 30.0
    pair = [workers("--lease", str(lease), "--interval", "1") for _ in range(2)]
    first = leader_of(pair)
    other = next(worker for worker in pair if worker is not first)
    eventually(lambda: other.get("/readyz") == (200, "standby"))
    before = store.leader()[1]
    subscription = store.subscribe()
    eventually(lambda: subscription.next(0.1) == "subscribed")

    first.process.send_signal(how)
    assert first.process.wait(20) == (0 if how is signal.SIGTERM else -signal.SIGKILL)
    left = store.leader()[1]  # as the dead leader left it, unless the other was faster
    last = left if left.epoch == before.epoch else before
    eventually(lambda: not other.leads or store.leader()[1].worker != before.worker)
    eventually(lambda: other.leads, "the other leads")
    after = store.leader()[1]
    assert after.epoch > before.epoch
    assert after.since_ms >= (last.until_ms if how is signal.SIGKILL else before.since_ms), "not before it ended"
    if how is signal.SIGTERM:
        assert after.since_ms < before.until_ms, "no waiting for the end of the lease"

    seen = []
    eventually(
        lambda: (isinstance(event := subscription.next(0.1), Event) and seen.append(event.kind)) or "elected" in seen
    )
    assert seen == (["elected"] if how is signal.SIGKILL else ["resigned", "elected"])
    subscription.close()
    recorded(store, "openai", 1, result("openai", False))
    eventually(lambda: store.snapshot(["openai"]).records["openai"].circuit_state == "half_open", "the successor works")
    assert store.snapshot(["openai"]).records["openai"].leader_epoch == after.epoch


def test_never_two_leaders(workers, one_real):
    """Three workers, their leader killed again and again: who says that it leads has the lease; a lease begins after
    the one before it ended."""
    store = one_real.store("test")
    fleet = {name: workers("--lease", "1", "--interval", "1", "--name", name) for name in ("a", "b", "c")}
    journal = []
    while fleet:
        leader = leader_of(fleet.values())
        for _ in range(20):
            for name, worker in fleet.items():
                before, leads, after = store.leader()[1], worker.leads, store.leader()[1]
                assert not leads or name in (before.worker, after.worker)
        leader.process.kill()
        leader.process.wait()
        last = store.leader()[1]
        name = next(name for name, worker in fleet.items() if worker is leader)
        if last.worker == name:  # else the machine was so busy that another had taken over
            journal.append(last)
        del fleet[name]
    assert journal
    for term, next_term in pairwise(journal):
        assert next_term.epoch > term.epoch
        assert next_term.since_ms >= term.until_ms


def test_pages(workers, one_real):
    """/metrics for Prometheus, /healthz for the one who restarts, /readyz says leader or standby."""
    worker = workers("--lease", "2")
    eventually(lambda: worker.leads)
    assert worker.get("/healthz") == (200, "alive")
    eventually(lambda: "redis_router_leader 1.0" in worker.get("/metrics")[1], "it shows that it leads")
    status, text = worker.get("/metrics")
    assert status == 200
    assert "redis_router_redis_up 1.0" in text
    assert worker.get("/elsewhere")[0] == 404


def test_without_redis_it_waits_and_says_so(one_real, workers):
    """Not ready, alive, one line with what to check; and it works as soon as Redis is there."""
    with EmbeddedServer() as server:
        server.stop()
        worker = workers("--lease", "1", url=server.url)
        assert any("cannot reach Redis" in line and "--redis" in line for line in worker.log)
        assert worker.get("/readyz")[0] == 503
        assert worker.get("/healthz") == (200, "alive")
        server.start()
        eventually(lambda: worker.leads)


def test_a_second_signal_kills(one_real, workers):
    """The first one waits for Redis to take the resignation; the second does not wait."""
    with EmbeddedServer() as server:
        worker = workers("--lease", "30", url=server.url)
        eventually(lambda: worker.leads)
        server.process.send_signal(signal.SIGSTOP)
        worker.process.send_signal(signal.SIGTERM)
        for line in worker.process.stderr:
            if "ends" in line:
                break
        worker.process.send_signal(signal.SIGTERM)
        code = worker.process.wait(10)
        server.process.send_signal(signal.SIGCONT)
        assert code == -signal.SIGTERM


def test_a_hung_redis_does_not_hold_up_the_end(one_real, workers):
    """One signal is enough: it gives up resigning, and exits 0 within a few seconds."""
    with EmbeddedServer() as server:
        worker = workers("--lease", "30", url=server.url)
        eventually(lambda: worker.leads)
        server.process.send_signal(signal.SIGSTOP)
        worker.process.send_signal(signal.SIGTERM)
        code = worker.process.wait(10)
        server.process.send_signal(signal.SIGCONT)
        assert code == 0


def test_a_taken_port_is_named(one_real):
    """Exit 2, with the remedy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("worker", "--redis", one_real.url, "--namespace", one_real.namespace, "--metrics-port", port)
    assert done.returncode == 2
    assert port in done.stderr
    assert "--metrics-port" in done.stderr


@pytest.mark.parametrize("command", ["worker", "status"])
@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost:port/0", ""])
def test_a_wrong_url_is_named(command, url):
    """Exit 2, with what a URL looks like; without a traceback."""
    done = run(command, "--redis", url)
    assert done.returncode == 2
    assert "redis://" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_password_is_named_and_kept_secret(one_real):
    """Not retried for ever: exit 2. The password is in no line."""
    with EmbeddedServer(password="right-horse") as server:
        url = server.url.replace("right", "wrong")
        for command in (["worker", "--metrics-port", "0"], ["status"]):
            done = run(*command, "--redis", url)
            assert done.returncode == 2
            assert "password" in done.stderr
            assert "horse" not in done.stderr


def test_once_is_for_cron(one_real):
    """One pass, the lease given back, exit 0."""
    store = one_real.store("test")
    store.register(Provider("openai", ("m",)), CircuitConfig(consecutive_failure_limit=1, open_timeout=0.001))
    recorded(store, "openai", 1, result("openai", False))
    done = run("worker", "--redis", one_real.url, "--namespace", one_real.namespace, "--once")
    assert done.returncode == 0, done.stderr
    assert store.snapshot().records["openai"].circuit_state == "half_open"
    assert store.leader()[1].remaining_ms <= 0


@contextmanager
def bad_endpoints(store):
    """Sixteen models behind a URL that drips, twenty endpoints that accept and never answer, and a good one."""
    circuit = CircuitConfig(consecutive_failure_limit=1, open_timeout=0.001)
    with target() as dripping, target() as good, socket.create_server(("127.0.0.1", 0), backlog=100) as hung:
        dripping.drips = True
        for number in range(16):
            store.register(Provider(f"vendor/m{number}", ("m",), probe=dripping.url), circuit)
        for number in range(20):
            url = f"http://127.0.0.1:{hung.getsockname()[1]}/{number}"
            store.register(Provider(f"hung-{number}", ("m",), probe=url), circuit)
        store.register(Provider("good", ("m",), probe=good.url), circuit)
        for name in store.specs():
            recorded(store, name, 1, result(name, False))
        yield dripping, good


def test_once_ends_whatever_probes_do(one_real):
    """Within the time that a probe has, and a little: cron does not pile up. What answers is moved."""
    store = one_real.store("test")
    with bad_endpoints(store) as (dripping, _):
        base = ("worker", "--redis", one_real.url, "--namespace", one_real.namespace)
        done = run(*base, "--once", "--probe-timeout", "2", timeout=60)
        assert dripping.asked == 1
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no answer within 2 s)") == 36
    moved = {name for name, health in store.snapshot().records.items() if health.circuit_state == "half_open"}
    assert moved == {"good"}
    assert store.leader()[1].remaining_ms <= 0


def test_probes_do_not_hold_up_the_end(workers, one_real):
    """They have an hour; after SIGTERM nobody waits for them, and the lease is free."""
    store = one_real.store("test")
    with bad_endpoints(store) as (dripping, good):
        worker = workers("--interval", "0.1", "--probe-timeout", "3600")
        eventually(lambda: dripping.asked and good.asked > 2, "it probes")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) == 0
        assert dripping.asked == 1
    assert store.leader()[1].remaining_ms <= 0
    assert "Traceback" not in worker.process.stderr.read()


def test_status(one_real):
    """A line per provider and the leader; all fields as JSON; a hint where there is nothing."""
    base = ("status", "--redis", one_real.url, "--namespace", one_real.namespace)
    assert "no provider is registered" in run(*base).stdout
    store = one_real.store("worker-1")
    store.register(Provider("openai", ("gpt-4o", "gpt-4o-mini")), CircuitConfig(consecutive_failure_limit=1))
    store.campaign(60_000)
    recorded(store, "openai", 1, result("openai", False, latency_ms=182.0))
    lines = run(*base).stdout.splitlines()
    assert lines[0].startswith("leader: worker-1, epoch ")
    assert lines[-1].split()[:2] == ["openai", "open"]
    assert "consecutive_failures" in lines[-1]
    assert "182.0 ms" in lines[-1]
    assert "gpt-4o, gpt-4o-mini" in lines[-1]
    said = json.loads(run(*base, "--json").stdout)
    assert said["leader"]["worker"] == "worker-1"
    assert said["providers"]["openai"]["open_reason"] == "consecutive_failures"
    assert said["providers"]["openai"]["config"]["consecutive_failure_limit"] == 1
    assert 0 < said["providers"]["openai"]["next_try_in_ms"] <= 30_000


def test_status_tells_why_and_until_when(one_real):
    """The last failure, when it is tried next, and what its probe says."""
    base = ("status", "--redis", one_real.url, "--namespace", one_real.namespace)
    store, client = one_real.store("worker-1"), one_real.client()
    store.register(Provider("openai", ("m",), probe="http://127.0.0.1:1/"), CircuitConfig(consecutive_failure_limit=1))
    store.register(Provider("azure", ("m",), probe="tcp://127.0.0.1:1"), CircuitConfig())
    store.register(Provider("gemini", ("m",)), CircuitConfig())
    failure = Result("openai", Outcome.FAILURE, 1.0, 1, reason="http_503")
    recorded(store, "openai", 1, failure)
    store.update("openai", {"probe_result": "HTTP 500"}, source="probe")
    lines = {line.split()[0]: line for line in run(*base).stdout.splitlines()[3:]}
    assert re.search(r"in \d+ s", lines["openai"])
    assert "http_503" in lines["openai"]
    assert "fails: HTTP 500" in lines["openai"]
    assert "not yet" in lines["azure"]
    assert "not yet" not in lines["gemini"]
    client.hset(store.keys.health("openai"), "last_state_change_ms", 1)
    client.hset(store.keys.health("azure"), "circuit_state", "ajar")
    done = run(*base)
    assert done.returncode == 1, "a record cannot be read"
    assert "azure" in done.stdout
    done = run(*base, "--json")
    assert done.returncode == 1
    assert "azure" in json.loads(done.stdout)["unreadable"]


def test_a_probe_with_a_secret_of_the_workers_own(workers, one_real):
    """It is filled in where the worker was told so, and stands neither in Redis nor in the log."""
    store = one_real.store("gw")
    with target() as provider:
        probe = Probe(provider.url, headers={"Authorization": "Bearer ${TEST_PROBE_KEY}", "X-Version": "3"})
        store.register(Provider("openai", ("m",), probe=probe), CircuitConfig())
        worker = workers("--interval", "0.1", "--probe-env", "TEST_PROBE_KEY", env={"TEST_PROBE_KEY": "sesame-1"})
        eventually(lambda: provider.asked)
        assert provider.headers["Authorization"] == "Bearer sesame-1"
        assert provider.headers["X-Version"] == "3"
    said = one_real.client().hget(store.keys.providers, "openai")
    assert "TEST_PROBE_KEY" in said
    assert "sesame" not in said + "".join(worker.log)


def test_the_gauges_of_a_dead_process_are_gone(workers, one_real, tmp_path):
    """Two workers that write into one folder; the one that was killed saw a circuit open that is closed by now."""
    store, env = one_real.store("gw"), {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    store.register(Provider("openai", ("m",)), CircuitConfig(consecutive_failure_limit=1, open_timeout=600.0))
    pair = [workers("--lease", "1", env=env) for _ in range(2)]

    def sample(worker, name):
        found = re.search(rf"^redis_router_{re.escape(name)} (\S+)$", worker.get("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else None

    def state(worker, word):
        return sample(worker, f'circuit_state{{provider="openai",state="{word}"}}')

    leader = leader_of(pair)
    other = next(worker for worker in pair if worker is not leader)
    recorded(store, "openai", 1, result("openai", False))
    for worker in pair:
        eventually(lambda worker=worker: state(worker, "open") == 1.0)
    files = [path.name for path in tmp_path.glob(f"gauge_live*_{leader.process.pid}.db")]
    assert files, "the leader wrote gauges of its own"
    leader.process.kill()
    leader.process.wait()
    one_real.client().hset(store.keys.health("openai"), mapping={"circuit_state": "closed", "generation": 3})
    store.update("openai", {"available": "1", "weight": "2"})
    eventually(lambda: state(other, "closed") == 1.0)
    assert state(other, "open") == 0.0
    assert not list(tmp_path.glob(f"gauge_live*_{leader.process.pid}.db"))
    eventually(lambda: sample(other, "leader") == 1.0)
    assert sample(other, "redis_up") == 1.0


def test_counters_and_pending_results_of_several_processes_add_up(one_real, tmp_path):
    """Two gateways, each with results; a third process shows the sum."""
    code = (
        "import sys; from redis_router import *\n"
        f"r = Router({one_real.url!r}, namespace={one_real.namespace!r})\n"
        "r.register_provider(Provider('openai', ('m',))); r.start()\n"
        "[r.record_result('openai', success=True, latency_ms=70.0) for _ in range(5)]; assert r.flush()\n"
        "r.record_result('openai', outcome='rate_limited', cooldown=60.0); assert r.flush()\n"
        "print('done', flush=True); sys.stdin.read()"
    )
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    gateways = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    try:
        assert [gateway.stdout.readline() for gateway in gateways] == ["done\n"] * 2
        show = "from redis_router.telemetry.exposition import *; print(generate_latest(scrape_registry()).decode())"
        shown = subprocess.run([sys.executable, "-c", show], env=env, capture_output=True, text=True, check=True).stdout
    finally:
        for gateway in gateways:
            gateway.communicate()
    samples = dict(line.rsplit(" ", 1) for line in shown.splitlines() if line.startswith("redis_router"))
    assert samples['redis_router_requests_total{outcome="success",provider="openai"}'] == "10.0"
    assert samples['redis_router_request_latency_seconds_bucket{le="0.1",provider="openai"}'] == "10.0"
    assert samples["redis_router_results_pending"] == "0.0"
    until = float(samples['redis_router_cooldown_until_timestamp_seconds{provider="openai"}'])
    assert until == one_real.record().cooldown_until_ms / 1000


def test_a_router_that_never_starts_is_not_out_of_touch(one_real, tmp_path):
    """gunicorn's master with preload: it makes the router, and its children use it."""
    code = (
        "import os; from redis_router import *; from redis_router.telemetry.exposition import *\n"
        f"r = Router({one_real.url!r}, namespace={one_real.namespace!r})\n"
        "if not os.fork():\n"
        "    r.start(); print(generate_latest(scrape_registry()).decode(), flush=True); r.close(); os._exit(0)\n"
        "os.wait()"
    )
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30, check=True)
    assert "redis_router_redis_up 1.0" in done.stdout


def test_status_without_redis():
    """Exit 2 and one line."""
    done = run("status", "--redis", f"redis://127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "Redis cannot serve" in done.stderr
    assert "is --redis right?" in done.stderr
    assert "Traceback" not in done.stderr


def test_version():
    """That of the installed distribution."""
    assert run("--version").stdout.split() == ["redis-router", version("redis-llm-router")]


def test_a_server_binary_that_is_none_is_named():
    """With the variable that says so."""
    done = run("demo", env={**os.environ, "REDIS_ROUTER_SERVER": "/nowhere/redis-server"})
    assert done.returncode == 2
    assert "/nowhere/redis-server" in done.stderr
    assert "REDIS_ROUTER_SERVER" in done.stderr
    assert "Traceback" not in done.stderr
