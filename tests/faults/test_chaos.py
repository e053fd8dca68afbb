"""The soak, for some minutes; that it would see what it looks for; and that its excuses excuse nothing else."""

import socket
import subprocess
import sys
import time

import pytest

from benchmarks.chaos import verdict
from tests.support.servers import Proxy

SEQ = "rr:{alpha}:seq:gw-1.00"
BROKEN = {"broken": "alpha", "provider": "alpha", "down": "beta", "mended": 104.0, "was_closed": True, "whole": 0.1}
HEALTH, EVENTS = "rr:{alpha}:health", "rr:{alpha}:events"


def soak(*options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *options], capture_output=True, text=True, timeout=480
    )


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_promise_is_kept():
    """Six replicas, two workers, a master with its replica, and some of the faults; `benchmarks.chaos` has them all."""
    faults = ["server_frozen", "leader_killed", "rights_hset", "lost_health", "mangled_state", "junk_published"]
    done = soak("--minutes", "0.6", "--seed", "1", "--faults", *faults)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "too short for" not in done.stdout
    assert done.stdout.count("kept   ") == 15


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mutation", "promise", "faults"),
    [
        ("sequence", "no outcome is applied twice", ["server_frozen", "connections_cut"]),
        ("generation", "late results move no circuit", ["server_frozen", "connections_cut"]),
        ("limit", "trial calls stay within the limit", ["leader_killed", "scripts_flushed"]),
        ("remember", "what was acknowledged is there", ["rights_hset"]),
    ],
)
def test_a_bug_put_in_on_purpose_is_found(mutation, promise, faults):
    """A lost reply that counts twice, a late failure that re-opens a circuit, a permit for all, a refused write."""
    done = soak("--minutes", "0.35", "--seed", "5", "--mutate", mutation, "--faults", *faults)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"BROKEN {promise}" in done.stdout


def fault(kind, t, until, **facts):
    return {"replica": "", "what": "fault", "kind": kind, "t": t, "until": until, "failed_over": False, **facts}


def line(what, t, replica="gw-1", **facts):
    return {"replica": replica, "what": what, "t": t, **facts}


def judged(promise, lines=(), ledger=(), stream=()):
    """What the verdict says of one promise."""
    found = verdict.broken(list(lines), [list(ledger)], [("alpha", list(stream))], {})
    return found[next(each for each in found if promise in each)]


def transition(at, before, after, generation):
    return {"at": at, "event": "transition", "from": before, "to": after, "generation": str(generation)}


class TestVerdict:
    """Each promise can be broken, and a fault excuses only what it did."""

    TWICE = (f"7 3 {SEQ} 100.0", f"7 3 {SEQ} 110.0")

    @pytest.mark.parametrize(
        ("gone", "t", "excused"),
        [
            (SEQ, 105.0, True),
            (HEALTH, 105.0, True),
            (SEQ, 111.0, False),
            (SEQ.replace("gw-1", "gw-2"), 105.0, False),
            (HEALTH.replace("alpha", "beta"), 105.0, False),
        ],
    )
    def test_a_batch_may_be_applied_twice_where_its_number_was_lost_in_between(self, gone, t, excused):
        """The very number or record, and between the two times."""
        found = judged("applied twice", [fault("lost_seq", t, t + 0.1, gone=[gone])], self.TWICE)
        assert (found == []) is excused

    @pytest.mark.parametrize(
        ("kind", "sent", "excused"),
        [
            ("failover", 100.5, True),
            ("failover", 98.0, False),
            ("failover", 103.0, False),
            ("lost_health", 100.5, False),
        ],
    )
    def test_only_a_failover_loses_what_was_acknowledged_and_only_around_it(self, kind, sent, excused):
        """A deleted record excuses nothing: the ledger is another key."""
        lines = [fault(kind, 100.0, 102.0, gone=[HEALTH]), line("applied", sent, sent=sent, key=SEQ, seq=7, n=3)]
        assert (judged("acknowledged", lines) == []) is excused

    def test_another_number_of_outcomes_than_was_acknowledged_is_found(self):
        """Three were acknowledged, two are there."""
        lines = [line("applied", 100.0, sent=100.0, key=SEQ, seq=7, n=3)]
        assert judged("acknowledged", lines, [f"7 2 {SEQ} 100.0"])
        assert not judged("acknowledged", lines, [f"7 3 {SEQ} 100.0"])

    @pytest.mark.parametrize(
        ("text", "facts", "excused"),
        [
            ("the record of provider alpha cannot be used: nan", {"kind": "mangled_number", "provider": "alpha"}, True),
            ("the record of provider beta cannot be used: nan", {"kind": "mangled_number", "provider": "alpha"}, False),
            ("no trial calls for provider alpha: WRONGTYPE", {"kind": "wrong_type_permits", "provider": "alpha"}, True),
            ("no trial calls for provider alpha: WRONGTYPE", {"kind": "wrong_type_permits", "provider": "beta"}, False),
            ("Redis refused the login or the command: NOPERM", {"kind": "rights_hset"}, True),
            ("Redis refused the login or the command: NOPERM", {"kind": "slow_link"}, False),
            ("something else", {"kind": "mangled_number", "provider": "alpha"}, False),
        ],
    )
    def test_an_error_line_is_allowed_where_it_names_what_a_fault_broke(self, text, facts, excused):
        """And a traceback never is."""
        faults = [fault(t=100.0, until=104.0, **facts)]
        assert (judged("no exception", [*faults, line("said", 101.0, text=text)]) == []) is excused
        assert judged("no exception", [*faults, line("error", 101.0, text=text)])

    @pytest.mark.parametrize(("t", "excused"), [(101.5, True), (99.0, False)])
    def test_the_count_of_generations_begins_anew_where_a_record_was_touched(self, t, excused):
        """Between the two transitions."""
        stream = [transition(101.0, "closed", "open", 2), transition(102.0, "closed", "open", 2)]
        faults = [fault("lost_events", t, t + 0.1, gone=[EVENTS])]
        assert (judged("transitions", faults, stream=stream) == []) is excused

    def test_an_illegal_transition_is_found_also_while_a_record_is_broken(self):
        """Nothing goes from a word that is no state."""
        faults = [fault("mangled_state", 100.0, 104.0, gone=[HEALTH], provider="alpha")]
        assert judged("transitions", faults, stream=[transition(101.0, "foo", "closed", 2)])

    def test_a_circuit_that_stays_open_is_found(self):
        """Twenty seconds, of which a failover explains five."""
        stream = [transition(100.0, "closed", "open", 2), transition(120.0, "open", "half_open", 3)]
        assert judged("tried again", [fault("failover", 101.0, 106.0)], stream=stream)
        assert not judged("tried again", [fault("failover", 101.0, 115.0)], stream=stream)

    @pytest.mark.parametrize(
        ("gone", "excused"), [("rr:{alpha}:permits", True), ("rr:{beta}:permits", False), ("rr:{alpha}:events", False)]
    )
    def test_more_trial_calls_than_the_limit_where_their_permits_were_lost(self, gone, excused):
        """Those of this provider, and nobody else's."""
        trials = [line("trial", 101.0, provider="alpha", permit=f"gw-1.0.{n}") for n in range(4)]
        provider = gone.partition("{")[2].partition("}")[0]
        lines = [fault("lost_permits", 100.0, 100.1, gone=[gone], provider=provider), *trials]
        assert (judged("trial calls", lines) == []) is excused

    @pytest.mark.parametrize(
        ("calls", "opened", "whole", "kept"),
        [
            ({"alpha": 9, "gamma": 9}, 0.2, 0.1, True),
            ({"alpha": 9}, 0.2, 0.1, False),
            ({"alpha": 9, "gamma": 9}, None, 0.1, False),
            ({"alpha": 9, "gamma": 9}, 7.0, 0.1, False),
            ({"alpha": 9, "gamma": 9}, 0.2, None, False),
        ],
    )
    def test_a_neighbour_is_served_and_opens(self, calls, opened, whole, kept):
        """Every replica calls somebody else; who goes down is open for the fleet."""
        facts = {**BROKEN, "opened": opened, "whole": whole}
        lines = [fault("mangled_state", 100.0, 104.1, **facts), line("chose", 103.0, calls=calls)]
        assert (judged("healthy neighbour", lines) == []) is kept

    @pytest.mark.parametrize(("calls", "kept"), [({"alpha": 1}, True), ({"gamma": 9}, False)])
    def test_the_provider_itself_is_called_on(self, calls, kept):
        """Its record is broken, not the provider."""
        lines = [fault("mangled_state", 100.0, 104.1, **BROKEN, opened=0.2), line("chose", 103.0, calls=calls)]
        assert (judged("is served, a drained", lines) == []) is kept

    @pytest.mark.parametrize(("t", "kept"), [(101.0, True), (103.0, False)])
    def test_a_drained_provider_is_not_called(self, t, kept):
        """Two seconds later nobody calls it."""
        lines = [
            fault("weight_zero", 100.0, 104.0, drained="alpha", mended=104.0),
            line("chose", t, calls={"alpha": 1}),
        ]
        assert (judged("is served, a drained", lines) == []) is kept

    @pytest.mark.parametrize(("seconds", "kept"), [(0.5, True), (4.0, False), (None, False)])
    def test_a_lost_circuit_comes_back_and_who_is_cut_off_decides(self, seconds, kept):
        """In time, and not never."""
        lost = [fault("lost_health", 100.0, 101.0, lost={"alpha": seconds})]
        alone = [fault("dns_hangs", 100.0, 101.0, down_alone="alpha", decided={"gw-1": seconds and 2 * seconds})]
        assert (judged("that Redis lost", lost) == []) is kept
        assert (judged("cut off", alone) == []) is kept


def test_a_slow_link_is_slow_both_ways_and_keeps_the_order():
    """What is sent together arrives together, a way there and a way back later."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        proxy = Proxy(upstream.getsockname()[1])
        proxy.latency = (0.1, 0.1)
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            server, _ = upstream.accept()
            began = time.monotonic()
            client.sendall(b"a")
            client.sendall(b"b")
            for byte in (b"a", b"b"):
                assert server.recv(1) == byte
                server.sendall(byte)
                assert client.recv(1) == byte
            assert time.monotonic() - began >= 0.2
            server.close()
        proxy.close()
