"""Who is there, with real processes: one that is killed, one that is frozen, one whose clock is wrong; and the cost."""

import json
import signal
import subprocess
import sys
import time

import pytest

from redis_router import Provider, Router, ViewState
from redis_router.replica import exchange
from redis_router.replicas import SILENT_MS
from redis_router.replicas import replicas as fleet_of
from redis_router.store.connect import connect
from redis_router.store.presence import GATEWAY, KEPT_MS, Presence
from tests.process.test_cli import run
from tests.support import eventually

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
