"""A webhook as an operator sets it up: real workers, a real receiver, and what goes wrong between them."""

import os
import signal

import pytest

from redis_router import CircuitConfig, Operator, Provider
from tests.process.test_workers import leader_of, run
from tests.support import eventually, recorded, result
from tests.support.http import receiver

CIRCUIT = CircuitConfig(consecutive_failure_limit=1, open_timeout=60.0)
OPTIONS = ("--webhook-url-env", "HOOK_URL", "--webhook-secret-env", "HOOK_SECRET")


@pytest.fixture
def hears():
    with receiver() as made:
        yield made


@pytest.fixture
def telling(workers, base, hears):
    """Starts a worker that tells the receiver: telling("--lease", "1"). Its user may read logs."""

    def start(*options):
        env = {"HOOK_URL": hears.url, "HOOK_SECRET": "a secret for the tests"}
        return workers(*OPTIONS, *options, url=base[1], env=env)

    return start


@pytest.fixture
def store(one_real):
    """Of an operator."""
    made = one_real.operator()
    made.register(Provider("openai", ("m",)), CIRCUIT)
    return made


def trip(store, name="openai", seq=1):
    recorded(store, name, seq, result(name, False))


def begun(store):
    """A leader told where it begins."""
    eventually(lambda: "*" in store.told(), "a leader began to tell")


def test_two_workers_tell_each_change_once(telling, store, hears, one_real, base):
    """Transition, drain and its end: who, why and until when."""
    pair = [telling("--name", name) for name in ("w1", "w2")]
    leader_of(pair)
    begun(store)
    trip(store)
    with Operator(base[1], one_real.namespace, by="alice") as operator:
        operator.drain("openai", seconds=2.0, reason="slow since noon")
        eventually(lambda: len(hears.changes) >= 3)
    members = ("event", "from", "to", "reason")
    assert hears.told(*members) == [
        ("transition", "closed", "open", "consecutive_failures"),
        ("override", "", "drain", "slow since noon"),
        ("override", "drain", "", "expired"),
    ]
    assert hears.changes[1]["by"] == "alice"
    assert hears.changes[2]["by"] in ("w1", "w2")
    assert "slow since noon" in hears.messages[-1]["text"] or len(hears.messages) > 1


def test_a_leader_that_is_killed_leaves_the_message_to_its_successor(telling, store, hears):
    """Between the transition and its message, and between the message and its note: told, and under the same id."""
    pair = [telling("--lease", "1", "--name", name) for name in ("w1", "w2")]
    leader = leader_of(pair)
    begun(store)
    hears.always = "hang"
    trip(store)
    eventually(lambda: len(hears.asked) == 1)
    leader.process.send_signal(signal.SIGKILL)
    hears.always = 200
    eventually(lambda: len(hears.asked) == 2)
    (first, _), (second, _) = hears.asked
    assert hears.told("to") == [("open",)] * 2
    assert hears.changes[0]["id"] == hears.changes[1]["id"]
    assert first["webhook-id"] == second["webhook-id"]
    assert hears.messages[0]["worker"] != hears.messages[1]["worker"]


def test_what_happens_while_no_worker_runs_is_told_when_one_does(telling, store, hears):
    """The providers' logs wait for it."""
    first = telling("--lease", "1")
    begun(store)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(20)
    trip(store)
    telling("--lease", "1")
    eventually(lambda: hears.told("to") == [("open",)])


def test_a_receiver_that_hangs_holds_up_nothing(telling, store, hears):
    """Circuits move, the lease is renewed, the pages answer, and SIGTERM ends it in time."""
    hears.always = "hang"
    worker = telling("--lease", "1", "--interval", "1")
    eventually(lambda: worker.leads)
    begun(store)
    store.register(Provider("quick", ("m",)), CircuitConfig(consecutive_failure_limit=1, open_timeout=0.2))
    trip(store)
    eventually(lambda: hears.asked)
    began = store.leader()[1]
    trip(store, "quick")
    eventually(lambda: store.snapshot(["quick"]).records["quick"].circuit_state == "half_open")
    eventually(lambda: store.leader()[1].until_ms > began.until_ms + 2000)
    assert store.leader()[1].epoch == began.epoch
    assert worker.get("/healthz") == (200, "alive")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(8) == 0
    assert store.leader()[1].remaining_ms <= 0, "it resigned"


def test_neither_url_nor_secret_are_in_log_or_argument_list(telling, store, hears):
    """Whatever the receiver answers."""
    hears.always = 404
    worker = telling()
    begun(store)
    trip(store)
    dropped = 'redis_router_webhook_dropped_total{reason="refused"} 1.0'
    eventually(lambda: dropped in worker.get("/metrics")[1])
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0
    log = "".join(worker.log) + worker.process.stderr.read()
    assert "the webhook at 127.0.0.1 is not told what happens; it refuses messages, which are not sent again" in log
    assert "a-secret" not in log
    assert "a secret" not in log
    assert not {hears.url, "a secret for the tests"} & set(worker.process.args)


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        (("--webhook-url-env", "HOOK_URL"), {}, "--webhook-url-env HOOK_URL: the environment has no such variable"),
        (("--webhook-url-env", "https://example.com/secret-word"), {}, "takes the name of an environment variable"),
        (("--webhook-url-env", "HOOK_URL"), {"HOOK_URL": "ftp://example.com/secret-word"}, "give http://host/path"),
        (OPTIONS, {"HOOK_URL": "https://example.com/", "HOOK_SECRET": "secret-word"}, "at least 16"),
        (("--webhook-secret-env", "HOOK_SECRET"), {}, "goes with --webhook-url-env"),
    ],
)
def test_a_worker_that_cannot_tell_does_not_start(base, options, env, said):
    """It says what to put right, and shows no secret."""
    done = run("worker", *base, "--metrics-port", "0", *options, env={**os.environ, **env})
    assert done.returncode == 2
    assert said in done.stderr
    assert "secret-word" not in done.stderr
