"""What somebody on call types, against a real server: the record says it, the log remembers it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from redis_router import CircuitConfig, Operator, Outcome, Provider, cli, overriding
from redis_router.circuit.outcome import Result, UnderWay
from redis_router.store.contract import Batch
from redis_router.testing.server import free_port
from tests.process.test_cli import run
from tests.support import eventually
from tests.support.documents import PAGES, ROOT, rows
from tests.support.terminal import Terminal


@pytest.fixture
def store(one_real):
    """openai and azure serve one model, claude alone another."""
    store = one_real.store("gw")
    for name, model in (("openai", "gpt-4o"), ("azure", "gpt-4o"), ("claude", "sonnet")):
        store.register(Provider(name, (model,)), CircuitConfig(consecutive_failure_limit=1))
    return store


@pytest.fixture
def record(store):
    return lambda name: store.snapshot([name]).records[name]


def done(*command):
    """What it said; it must end well."""
    code, out, err = run(*command)
    assert code == 0, err
    return out


class TestActing:
    def test_a_drain_and_its_end(self, base, record):
        """With who, why and until when; the log has both."""
        out = done("drain", "openai", "--for", "30m", "--reason", "slow since noon", "--by", "alice", *base)
        assert out == "openai: drain by alice, for 30 min\n"
        found = record("openai")
        assert (found.override, found.override_by, found.override_reason) == ("drain", "alice", "slow since noon")
        assert record("azure").override == ""
        assert done("ready", "openai", "--by", "bob", *base) == "openai: drain ended; the rules decide: calls flow\n"
        assert record("openai").override == ""
        lines = done("events", "openai", *base).splitlines()
        drained, ready = [line for line in lines if "drain" in line]
        assert re.search(r"openai  drain until \S+ \S+ \(slow since noon\)  by alice$", drained)
        assert ready.endswith("openai  drain ended  by bob")

    @pytest.mark.parametrize(
        ("command", "word"), [("open", "force_open"), ("close", "force_closed"), ("observe", "observe")]
    )
    def test_the_others(self, base, record, command, word):
        """Several at once, for ever where that is said."""
        out = done(command, "openai", "azure", "--for-ever", "--by", "alice", "--yes", *base)
        assert out.splitlines() == [f"{name}: {word} by alice, for ever" for name in ("openai", "azure")]
        assert record("openai").override == record("azure").override == word

    def test_a_weight(self, base, record):
        """As JSON, too; an hour where nothing is said."""
        (said,) = json.loads(done("weight", "azure", "--to", "0.2", "--json", *base))
        assert (said["provider"], said["weight_override"]) == ("azure", 0.2)
        assert said["weight_override_until_ms"] - said["now_ms"] == pytest.approx(3_600_000, abs=60_000)
        assert record("azure").weight_override == 0.2

    def test_ready_puts_back_what_was_taken_out_for_good(self, base, store, record):
        """By `update_health(available=False)`."""
        store.update("openai", {"available": "0"})
        done("ready", "openai", *base)
        assert record("openai").available

    def test_a_reset(self, base, store, record):
        """The circuit is closed, and the log says who did it and why."""
        store.record([Batch("openai", 1, [Result("openai", Outcome.FAILURE, 5.0, 1)])])
        assert record("openai").circuit_state == "open"
        (said,) = json.loads(done("reset", "openai", "--reason", "moved", "--by", "alice", "--json", *base))
        assert (said["circuit_state"], record("openai").failure_rate) == ("closed", 0.0)
        assert done("events", "openai", *base).splitlines()[-1].endswith("reset open -> closed (moved)  by alice")

    def test_a_reset_of_several_takes_a_yes(self, base, store, record):
        """Without a terminal to ask on it is refused, and nothing is done."""
        store.record([Batch("openai", 1, [Result("openai", Outcome.FAILURE, 5.0, 1)])])
        code, _, err = run("reset", "*", *base, stdin=subprocess.DEVNULL)
        assert (code, "forgotten of openai, azure, claude" in err, "--yes" in err) == (2, True, True)
        assert record("openai").circuit_state == "open"
        said = done("reset", "*", "--yes", *base).splitlines()
        assert sorted(said) == [
            f"{name}: circuit closed; what calls taught is forgotten" for name in ("azure", "claude", "openai")
        ]
        assert record("openai").circuit_state == "closed"

    @pytest.mark.parametrize("command", [("drain", "--yes"), ("ready",), ("reset", "--yes"), ("events",)])
    def test_a_large_fleet(self, base, store, monkeypatch, command):
        """Each is not looked up among all, which would take minutes for some thousands."""
        for number in range(20):
            store.register(Provider(f"p{number}", ("m",)), CircuitConfig())
        looked, of = [], overriding.names_in_fleet
        monkeypatch.setattr(overriding, "names_in_fleet", lambda *a, **k: looked.append(1) or of(*a, **k))
        assert cli.main([command[0], "*", "p1", *command[1:], *base]) == 0
        assert len(looked) < 6

    def test_an_unknown_name_does_nothing_to_anybody(self, base, record):
        """And is told those that there are."""
        code, _, err = run("drain", "openai", "opneai", *base)
        assert code == 2
        assert "opneai" in err
        assert "openai" in err
        assert record("openai").override == ""

    @pytest.mark.parametrize("names", [("claude",), ("openai", "azure"), ("*",)])
    def test_the_last_one_of_a_model_takes_a_yes(self, base, record, names):
        """Without a terminal to ask on it is refused, and nothing is done."""
        code, _, err = run("drain", *names, *base, stdin=subprocess.DEVNULL)
        assert (code, "nobody would be left for" in err, "--yes" in err) == (2, True, True)
        assert record("claude").override == record("openai").override == ""
        done("drain", *names, "--yes", *base)
        assert record("claude" if names != ("openai", "azure") else "openai").override == "drain"

    @pytest.mark.parametrize("wrong", [("--for", "30"), ("--for", "soon"), ("--for", "1h", "--for-ever")])
    def test_no_time_is_refused(self, base, record, wrong):
        """Before anything is stored."""
        code, _, err = run("drain", "openai", *wrong, *base)
        assert code == 2
        assert "--for" in err
        assert record("openai").override == ""


class TestWaiting:
    def test_it_waits_for_the_calls_under_way(self, base, store, record):
        """Of the whole fleet; they end, and so does it."""
        store.record([Batch("openai", 1, (), UnderWay(4))])
        command = [sys.executable, "-m", "redis_router", "drain", "openai", "--wait", *base]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waits:
            assert "4 calls under way" in waits.stderr.readline()
            assert record("openai").override == "drain"
            assert waits.poll() is None
            store.record([Batch("openai", 2, [Result("openai", Outcome.SUCCESS, 5.0, 1)], UnderWay(0))])
            assert "0 calls under way" in waits.stderr.readline()
            assert waits.wait(20) == 0

    def test_a_bar_on_a_terminal(self, base, store, record):
        """In one line, which grows as calls end; at 80 columns, and the terminal is left as it was."""
        store.record([Batch("openai", 1, (), UnderWay(4))])
        command = [sys.executable, "-m", "redis_router", "drain", "openai", "--wait", *base]
        with Terminal(command) as terminal:
            terminal.until(lambda text: "[------------------------] 4 calls under way" in text)
            store.record([Batch("openai", 2, [Result("openai", Outcome.SUCCESS, 5.0, 1)], UnderWay(1))])
            terminal.until(lambda text: "[##################------] 1 call under way" in text)
            store.record([Batch("openai", 3, [Result("openai", Outcome.SUCCESS, 5.0, 1)], UnderWay(0))])
            assert terminal.ends() == 0
            bar, said, *_ = terminal.text.splitlines()
            assert bar.startswith("[########################] 0 calls under way, ")
            assert said.startswith("openai: drain by ")
            assert terminal.is_as_before()

    def test_it_does_not_wait_for_ever(self, base, store, record):
        """Then the exit code says so, and the drain stays."""
        store.record([Batch("openai", 1, (), UnderWay(1))])
        code, _, err = run("drain", "openai", "--wait", "--timeout", "1s", *base)
        assert (code, "1 call under way" in err) == (3, True)
        assert record("openai").override == "drain"

    def test_a_timeout_without_waiting_is_a_mistake(self, base, store, record):
        """Nothing is done: who gives one means to wait."""
        code, _, err = run("drain", "openai", "--timeout", "1s", *base)
        assert (code, err) == (2, "redis-router: --timeout is for --wait: give both, or neither\n")
        assert record("openai").override == ""

    @pytest.fixture
    def waits(self, base, store):
        """Waits for two calls at openai: it said so."""
        store.record([Batch("openai", 1, (), UnderWay(2))])
        command = [sys.executable, "-m", "redis_router", "drain", "openai", "--wait", "--timeout", "60s", *base]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as made:
            assert "2 calls under way" in made.stderr.readline()
            yield made
            made.kill()

    @pytest.mark.parametrize("ends", [("end", 0), ("force_closed", 60_000), ("drain", 1)])
    def test_somebody_else_lets_calls_through_again(self, waits, store, ends):
        """Or its time is over: whoever waits must not take that for done, however few calls there are then."""
        store.override("openai", *ends, 0.0, "bob", "")
        store.record([Batch("openai", 2, (), UnderWay(0))])
        assert waits.wait(20) == 2
        assert "openai is drained no more" in waits.stderr.read()

    def test_a_provider_that_is_deregistered_meanwhile(self, waits, store):
        """Nobody knows of its calls any more."""
        store.deregister("openai")
        assert waits.wait(20) == 2
        assert "openai was deregistered" in waits.stderr.read()

    def test_a_record_that_is_lost_meanwhile_says_nothing_of_calls(self, waits, store, one_real):
        """It is waited for, until a replica brings it back with the word that is in force."""
        copy = store.snapshot(["openai"]).records["openai"]
        commands = one_real.client().info("commandstats")
        one_real.client().delete(one_real.keys.health("openai"))
        looks = lambda: one_real.client().info("commandstats")["cmdstat_hgetall"]["calls"]  # noqa: E731
        eventually(lambda: looks() > commands["cmdstat_hgetall"]["calls"] + 24, "some looks")
        assert waits.poll() is None
        store.restore(Provider("openai", ("gpt-4o",)), copy)
        store.record([Batch("openai", 2, (), UnderWay(0))])
        assert waits.wait(20) == 0

    def test_redis_may_be_away_for_a_while(self, waits, store, one_real):
        """A failover ends no wait."""
        with one_real.away():
            time.sleep(3 * 0.5)  # time-outs of a client that waits half a second
            assert waits.poll() is None
        eventually(lambda: store.record([Batch("openai", 2, (), UnderWay(0))])[0].health is not None)
        assert waits.wait(20) == 0

    def test_calls_of_a_replica_that_died(self, base, store, one_real):
        """The record's sum has them until another replica speaks; by its own word they count for a minute."""
        store.record([Batch("openai", 1, (), UnderWay(2))])
        (session,) = [each for each in one_real.client().hkeys(one_real.keys.in_flight("openai")) if each]
        now_ms, _ = store.leader()
        one_real.client().hset(one_real.keys.in_flight("openai"), session, f"2 0 {now_ms - 61_000}")
        assert "0 calls under way" in run("drain", "openai", "--wait", "--timeout", "20s", *base)[2]
        assert Operator(one_real.url, one_real.namespace).in_flight("openai") == 0


@pytest.mark.parametrize("command", [("drain", "openai"), ("events",), ("config", "show"), ("replicas",)])
def test_without_redis(command):
    """Exit code 2, and one line that says what to check."""
    code, out, err = run(*command, "--redis", f"redis://127.0.0.1:{free_port()}")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "Connection refused; does " in err
    assert err.endswith(" run, is --redis right?\n")


DYING = """
import signal, sys
from redis_router import cli
from redis_router.cli import events

class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def say(text, told=events.say):
    told(text)
    Dying()

events.say = say
sys.exit(cli.main(["events", "--follow", *sys.argv[1:]]))
"""


class TestEvents:
    def test_all_of_all_in_order(self, base, store, one_real):
        """Transitions, too, with their reason; as JSON a line each."""
        store.record([Batch("azure", 1, [Result("azure", Outcome.FAILURE, 5.0, 1)])])
        with Operator(base[1], one_real.namespace, by="alice") as operator:
            operator.drain("openai", reason="slow")
        told = [json.loads(line) for line in done("events", "--json", *base).splitlines()]
        assert [each["at_ms"] for each in told] == sorted(each["at_ms"] for each in told)
        (opened,) = [each for each in told if each["event"] == "transition"]
        assert (opened["provider"], opened["from"], opened["to"]) == ("azure", "closed", "open")
        text = done("events", "--since", "1h", *base)
        assert "circuit closed -> open (consecutive_failures)" in text

    def test_entries_that_a_hand_wrote(self, base, one_real, store):
        """One of the year 287168, which all that follow are of, too; and what is no text is shown as an escape."""
        log, key = one_real.client(), one_real.keys.events("openai")
        log.xadd(key, {"event": "override", "by": "x\n\x1b]0;y\x07", "until_ms": "9" * 5000, "reason": "\u202e"})
        log.xadd(key, {"event": "override", "by": "x"}, id="9000000000000000-1")
        store.override("openai", "drain", 0, 0.0, "alice", "slow")
        text = done("events", "openai", *base).splitlines()
        assert len(text) == 4
        assert text[1].endswith(r"openai  override ended (\u202e)  by x\n\x1b]0;y\x07")
        assert text[-1].endswith("openai  drain for ever (slow)  by alice")
        for zone in ("Pacific/Kiritimati", "Etc/GMT+12"):
            assert run("events", *base, env={"TZ": zone})[0] == 0
        assert len(done("events", "openai", "--json", *base).splitlines()) == 4
        with Operator(one_real.url.replace("router:password@", ""), one_real.namespace) as operator:
            assert [event.by for event in operator.events("openai", since=60.0)][-1] == "alice"

    def test_it_follows(self, base, store, one_real):
        """What happens after it began, once each."""
        command = [sys.executable, "-u", "-m", "redis_router", "events", "openai", "--follow", *base]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follows:
            assert "registered" in follows.stdout.readline()
            with Operator(base[1], one_real.namespace, by="alice") as operator:
                operator.drain("openai")
                operator.end_override("openai")
            assert "drain until" in follows.stdout.readline()
            assert "drain ended" in follows.stdout.readline()
            follows.terminate()
            eventually(lambda: follows.poll() is not None)

    def test_ctrl_c_within_a_finalizer(self, base, store):
        """What is raised there is lost; the command ends all the same, and in silence."""
        with subprocess.Popen(
            [sys.executable, "-u", "-c", DYING, *base],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as follows:
            assert follows.communicate(timeout=60)[1] == ""
        assert follows.returncode == 130

    def test_nothing_yet(self, base):
        """A namespace without providers has no events."""
        assert done("events", *base) == ""


class TestExitCodes:
    """The table of docs/command-line.md, row by row."""

    ROWS = tuple((int(row[0]), row[-1].strip("`")) for row in rows(PAGES["docs/command-line.md"]) if row[0].isdecimal())

    @pytest.fixture
    def fleet(self, store, tmp_path, monkeypatch):
        """With a call under way that does not end, and a file of other thresholds."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "fleet.toml").write_text("[openai]\nopen_timeout = 7\n")
        store.record([Batch("openai", 1, (), UnderWay(1))])

    @pytest.mark.parametrize(("code", "command"), ROWS, ids=str)
    def test_each_ends_as_the_page_says(self, base, fleet, code, command):
        """Ctrl-C is for what does not end by itself."""
        program, *words = shlex.split(command)
        assert program == "redis-router"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        typed = [sys.executable, "-u", "-m", "redis_router", *words, *base]
        with subprocess.Popen(typed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as ran:
            if code == 130:
                assert "registered" in ran.stdout.readline()
                ran.send_signal(signal.SIGINT)
            _, err = ran.communicate(timeout=60)
        assert (ran.returncode, "Traceback" in err) == (code, False), err

    def test_the_table_has_all(self):
        """Those that the command's own help tells."""
        assert [str(code) for code, _ in self.ROWS] == re.findall(r"\b(\d+) ", cli.EXIT_CODES)


JSON = [("purge",), ("purge", "--all"), ("worker", "--once"), ("status",), ("doctor",), ("config", "show"), ("events",)]


@pytest.mark.parametrize("command", JSON, ids=" ".join)
def test_all_that_look_print_json(base, store, command):
    """One document, or one a line; nothing else on stdout."""
    _, out, _ = run(*command, "--json", *base)
    if command == ("events",):
        assert [json.loads(line)["event"] for line in out.splitlines()] == ["registered"] * 3
    else:
        assert json.loads(out)


def test_what_a_purge_finds_as_json(base, store):
    """By name; `removed` says whether it was done."""
    assert json.loads(done("purge", "--json", *base)) == {"removed": False, "unused": []}
    keys = json.loads(done("purge", "--all", "--yes", "--json", *base))
    assert (keys["removed"], any("openai" in key for key in keys["keys"])) == (True, True)
    assert store.specs() == {}


class TestAsking:
    """On a terminal somebody is asked where it is dangerous."""

    @pytest.mark.parametrize(("answer", "code", "word"), [("y", 0, "drain"), ("n", 2, ""), ("", 2, "")])
    def test_the_answer_counts(self, base, record, answer, code, word):
        """Only a yes is one."""
        with Terminal([sys.executable, "-m", "redis_router", "drain", "claude", *base]) as terminal:
            terminal.until(lambda text: "nobody would be left for sonnet. Go on? [y/N]" in text)
            assert record("claude").override == ""
            terminal.type(f"{answer}\n")
            assert terminal.ends() == code
        assert record("claude").override == word
