"""Faults of servers and processes. Each is real: a signal, a command, a dead process.

A fault is a function of the fleet and of the line that will stand in the journal for it: there it notes what the
verdict must know, and it returns when all is whole again.
"""

import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import redis

from benchmarks.chaos import truth
from benchmarks.chaos.fleet import LEASE, Fleet, Line, within
from redis_router.errors import RouterError
from tests.support.servers import end

Fault = Callable[[Fleet, Line], None]
FAULTS: dict[str, Fault] = {}
"""The deck."""


def fault(function: Fault) -> Fault:
    """One of the deck."""
    FAULTS[function.__name__] = function
    return function


def wait_restored(fleet: Fleet, line: Line, names: Iterable[str], lose: Callable[[], object]) -> None:
    """Lose records, and note for each whose circuit was open how many seconds later it was back, at least as new."""
    fields = {name: fleet.fields(name) for name in names}
    lose()
    lost_at = time.time()
    generations = {
        name: int(each[b"generation"]) for name, each in fields.items() if each.get(b"circuit_state") == b"open"
    }

    def is_back(name: str) -> bool:
        return int(fleet.fields(name).get(b"generation", b"0")) >= generations[name]

    line["lost"] = {name: within(20.0, lambda name=name: is_back(name), lost_at) for name in generations}


def begin_whole(fleet: Fleet, line: Line) -> None:
    """The follower has all up to now: what it lacks later was written around the fault."""
    began = time.time()
    fleet.wait_replicated()
    line["t"] = time.time()
    line["waited"] = round(line["t"] - began, 3)


@fault
def server_killed(fleet: Fleet, line: Line) -> None:
    begin_whole(fleet, line)
    dead = fleet.server()
    end(dead.process)
    fleet.wait_served(since=dead)
    line["served"] = time.time()
    fleet.wait_agreed()
    dead._options = ("--replicaof", "127.0.0.1", str(fleet.server().port))
    dead.process = None
    dead.start()
    fleet.grant(dead.port)
    fleet.wait_replicated()


@fault
def server_frozen_long(fleet: Fleet, line: Line) -> None:
    begin_whole(fleet, line)
    frozen = fleet.server()
    frozen.process.send_signal(signal.SIGSTOP)
    fleet.wait_served(since=frozen)
    line["served"] = time.time()
    frozen.process.send_signal(signal.SIGCONT)
    fleet.wait_replicated()


@fault
def server_frozen(fleet: Fleet, line: Line) -> None:
    """Too short for a failover, long enough for every time-out."""
    process = fleet.server().process
    process.send_signal(signal.SIGSTOP)
    time.sleep(fleet.draw.uniform(0.55, 0.75))
    process.send_signal(signal.SIGCONT)
    fleet.wait_served()
    line["served"] = time.time()
    fleet.wait_replicated()


@fault
def failover(fleet: Fleet, line: Line) -> None:
    begin_whole(fleet, line)
    before = fleet.server()
    with redis.Redis(port=fleet.servers.ports[0], decode_responses=True) as sentinel:
        for _ in range(6):  # sentinels give up where the replica is one that came back just now
            with suppress(redis.ResponseError, AssertionError):
                sentinel.execute_command("SENTINEL", "FAILOVER", "mymaster")
                fleet.wait_served(since=before, timeout=10.0)
                break
    fleet.wait_replicated()


@fault
def flushed(fleet: Fleet, line: Line) -> None:
    fleet.wait_served()
    fleet.keep_history()
    wait_restored(fleet, line, truth.PROVIDERS, lambda: fleet.store().client.flushall())


@fault
def scripts_flushed(fleet: Fleet, line: Line) -> None:
    fleet.store().client.script_flush()


@fault
def connections_cut(fleet: Fleet, line: Line) -> None:
    client = fleet.store().client
    for kind in ("normal", "pubsub"):
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


@fault
def replica_killed(fleet: Fleet, line: Line) -> None:
    name = line["victim"] = fleet.draw.choice(list(fleet.replicas))
    end(fleet.replicas.pop(name))
    fleet.start_replica()


@fault
def replica_frozen(fleet: Fleet, line: Line) -> None:
    name = line["victim"] = fleet.draw.choice(list(fleet.replicas))
    fleet.replicas[name].send_signal(signal.SIGSTOP)
    time.sleep(fleet.draw.uniform(0.5, 2 * truth.PERMIT_TTL))
    fleet.replicas[name].send_signal(signal.SIGCONT)


@fault
def leader_killed(fleet: Fleet, line: Line) -> None:
    end(fleet.workers.pop(_leader(fleet)))
    fleet.start_worker()


@fault
def leader_frozen(fleet: Fleet, line: Line) -> None:
    process = fleet.workers[_leader(fleet)]
    process.send_signal(signal.SIGSTOP)
    time.sleep(LEASE * fleet.draw.uniform(0.5, 1.5))
    process.send_signal(signal.SIGCONT)


def _leader(fleet: Fleet) -> str:
    with suppress(RouterError):
        leader = fleet.store().leader()[1]
        if leader is not None and leader.worker in fleet.workers:
            return leader.worker
    return fleet.draw.choice(list(fleet.workers))
