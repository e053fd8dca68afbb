"""Who is there, with real processes: one that is killed, one that is frozen, one whose clock is wrong; and the cost."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from redis_router import CircuitConfig, Provider, Router, ViewState
from redis_router.replica import exchange
from redis_router.replicas import SILENT_MS
from redis_router.replicas import replicas as fleet_of
from redis_router.store.connect import connect
from redis_router.store.presence import GATEWAY, KEPT_MS, Presence
from tests.process.test_cli import run
from tests.support import eventually, recorded, result

ONCE = {"consecutive_failure_limit": 1, "open_timeout": 600.0}


@pytest.fixture
def listed(base):
    """What the command prints as JSON, by pid; and its exit code."""

    def look():
        code, out, err = run("replicas", "--json", *base)
        assert err == ""
        return code, {each["pid"]: each for each in json.loads(out)["replicas"]}

    return look


def later(one_real, ms):
    """A store that looks so long from now."""
    now_ms, _ = one_real.looking.leader()
    return one_real.store("later", now_ms=now_ms + ms)


class TestProcesses:
    def test_who_closes_is_gone_and_who_is_killed_goes_by_itself(self, one_real, replicas, listed):
        """Until then it is listed, with how long ago it spoke."""
        closed, killed, lives = replicas(3, circuit=ONCE)
        pids = [each.process.pid for each in (closed, killed, lives)]
        eventually(lambda: listed()[1].keys() == set(pids), "all are there")
        assert closed("close")
        killed.process.kill()
        killed.process.wait()
        assert listed()[1].keys() == set(pids[1:])
        eventually(lambda: listed()[1][pids[1]]["silent_ms"] > 2 * listed()[1][pids[2]]["silent_ms"], "it is silent")
        after = later(one_real, KEPT_MS + 1)
        after.say_present(Presence(after.session, "later", GATEWAY, "1", "h", 1, 0))
        assert pids[1] not in {each.pid for each in one_real.looking.presences()}

    def test_a_frozen_one_is_silent_and_then_in_step(self, one_real, replicas, listed):
        """It said nothing wrong: what happened meanwhile it knows when it goes on."""
        frozen, lives = replicas(2, circuit=ONCE)
        pid = frozen.process.pid
        eventually(lambda: len(listed()[1]) == 2)
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            lives("fail", 1)
            eventually(lambda: lives("state") == "open")
            eventually(lambda: listed()[1][pid]["silent_ms"] > 2000, "it has been silent for a while")
            assert listed()[1][pid]["state"] == "in_step"  # as far as anybody knows
            (found,) = [each for each in fleet_of(later(one_real, SILENT_MS)) if each.pid == pid]
            assert (found.state, found.sees["openai"]) == (ViewState.SILENT, "closed 1")
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        eventually(lambda: listed()[1][pid]["sees"]["openai"] == "open 2", "it goes on")
        assert frozen("state") == "open"

    def test_a_clock_that_is_wrong_does_not_matter(self, one_real):
        """An hour late: since when and when last are told by Redis's clock."""
        program = f"""
import sys, time
real, real_ns = time.time, time.time_ns
time.time, time.time_ns = (lambda: real() - 3600), (lambda: real_ns() - 3_600_000_000_000)
from redis_router import Provider, Router
with Router({one_real.url!r}, namespace={one_real.namespace!r}, replica="late") as router:
    router.register_provider(Provider("openai", ("m",)))
    print("ready", flush=True)
    sys.stdin.readline()
"""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        began_ms, _ = one_real.looking.leader()
        with subprocess.Popen([sys.executable, "-c", program], **pipes) as late:
            assert late.stdout.readline() == "ready\n"
            eventually(lambda: [each.view for each in one_real.looking.presences()] == [{"openai": "closed 1"}])
            (found,) = fleet_of(one_real.looking)
            late.communicate("\n")
        assert began_ms <= found.since_ms <= found.seen_ms <= one_real.looking.leader()[0]
        assert found.silent_ms < 600_000
        assert found.state is ViewState.IN_STEP


class TestTheCommands:
    @pytest.fixture
    def store(self, one_real):
        """openai is open; azure/a and azure/b are records of one provider."""
        store = one_real.store("gw-1")
        store.register(Provider("openai", ("m",)), CircuitConfig(**ONCE))
        for part in Provider("azure", ("a", "b"), circuit_per_model=True).parts():
            store.register(part, CircuitConfig())
        recorded(store, "openai", 1, result("openai", False))
        return store

    def test_nobody_is_there(self, base):
        """That is no error."""
        code, out, _ = run("replicas", *base)
        assert (code, "nobody is there" in out) == (0, True)

    def test_the_exit_code_says_whether_one_differs(self, base, store):
        """As a table and as JSON."""
        word = Presence(store.session, "gw-1", GATEWAY, "1", "h", 1, 0, view={"openai": "open 2"})
        for changes, expected in (({}, 0), ({"own": {"openai": "closed"}}, 1)):
            store.say_present(replace(word, **changes))
            assert run("replicas", *base)[0] == expected
            code, out, _ = run("replicas", "--json", *base)
            (found,) = json.loads(out)["replicas"]
            assert (code, found["differs"]) == (expected, bool(expected))
            code, out, _ = run("status", "--json", *base)
            assert (code, json.loads(out)["replicas"]) == (0, {"count": 1, "differ": expected})

    def test_a_terminal_is_shown_what_is_printable(self, base, store):
        """Whatever stands there."""
        evil = "\x1b[2J\ngw-9"
        store.say_present(
            Presence(store.session, evil, evil, evil, evil, 1, 0, view={"openai": evil}, own={evil: evil})
        )
        for command in (["replicas"], ["status"], ["status", "openai"], ["doctor"]):
            _, out, err = run(*command, *base)
            assert err == ""
            assert all(line.isprintable() for line in out.splitlines())

    def test_a_word_that_is_very_long_moves_its_own_line_alone(self, base, one_real):
        """Five hundred replicas beside it are not padded to its length."""
        for number, version in enumerate(("0.2.0", "v" * 10_000)):
            one_real.store().say_present(Presence("s", f"gw-{number}", GATEWAY, version, "h", 1, 0))
        lines = run("replicas", *base)[1].splitlines()
        assert sorted(len(line) > 200 for line in lines) == [False] * (len(lines) - 1) + [True]

    def test_an_account_of_several(self, base, store):
        """By provider, or by a record of one; each once."""
        code, out, err = run("status", "openai", "azure", "azure/a", *base)
        assert (code, err) == (0, "")
        heads = [line for line in out.splitlines() if line and not line.startswith(" ")]
        assert heads == ["openai", "azure/a", "azure/b"]
        code, out, _ = run("status", "azure/b", "--json", *base)
        (name, found), *others = json.loads(out)["providers"].items()
        assert (code, name, others) == (0, "azure/b", [])
        assert found["circuit_state"] == "closed"
        assert found["account"].keys() == {"permits", "reporters", "calls", "replicas", "words"}

    def test_an_unknown_name(self, base, store):
        """Is told those that there are."""
        code, out, err = run("status", "openai", "opneai", *base)
        assert (code, out) == (2, "")
        assert "openai" in err

    def test_a_record_that_cannot_be_read(self, base, store, one_real):
        """And one that is missing: said in its paragraph."""
        one_real.client().hset(store.keys.health("openai"), "failure_rate", "x")
        one_real.client().delete(store.keys.health("azure/a"))
        code, out, _ = run("status", "openai", "azure/a", *base)
        assert code == 1
        assert "cannot be used" in out
        assert "without a record" in out

    def test_the_rights_of_a_gateway_tell_the_most_of_it(self, base, store, one_real):
        """Permits and reporters take one of an operator's."""
        store.update("openai", {"min_reporters": "2"})
        url = ("--redis", one_real.url, *base[2:])
        code, out, _ = run("status", "openai", *url)
        assert (code, "zrange" in out) == (0, True)
        code, out, _ = run("status", "openai", *base)
        assert (code, "zrange" in out) == (0, False)
        assert run("replicas", *url)[0] == 0

    def test_a_key_of_another_type(self, base, store, one_real, caplog):
        """Nobody can say that he is there: that is said once, and calls go on."""
        one_real.client().set(store.keys.replicas, "x")
        with Router(one_real.url, namespace=one_real.namespace) as router:
            router.register_provider(Provider("azure", ("m",)))
            assert router.flush()
            assert router.redis_up
            eventually(lambda: [each for each in caplog.messages if "cannot tell that this process is there" in each])
        code, out, _ = run("status", *base)
        assert (code, "replicas: unknown" in out) == (0, True)
        code, out, _ = run("status", "openai", *base)
        assert (code, "unknown, Redis refuses to tell" in out) == (0, True)
        assert run("replicas", *base)[0] == 2


class TestTheCost:
    @pytest.fixture
    def spoken(self, one_real, base):
        """Makes so many calls; how many words the server counted, and the seconds that it took."""
        with connect(base[1]) as admin:

            def words():  # nothing else that a gateway does sets a time to live in this way
                return admin.info("commandstats").get("cmdstat_pexpire", {}).get("calls", 0)

            def make(calls):
                before, began = words(), time.monotonic()
                with Router(one_real.url, namespace=one_real.namespace) as router:
                    router.register_provider(Provider("openai", ("m",)))
                    assert router.flush()
                    for _ in range(calls):
                        with router.attempt("m"):
                            pass
                    assert router.flush()
                return words() - before, time.monotonic() - began

            yield make

    @pytest.mark.parametrize("calls", [0, 5000])
    def test_no_command_per_request(self, spoken, calls):
        """Words go by the time: a first one, one more for the provider that came, and one in about ten seconds."""
        number, seconds = spoken(calls)
        assert 1 <= number <= 2 + seconds / 9

    def test_without_words_there_is_none(self, spoken, monkeypatch):
        """So it is the words that were counted above."""
        monkeypatch.setattr(exchange.Exchange, "_say_present", lambda self: None)
        assert spoken(5000)[0] == 0
