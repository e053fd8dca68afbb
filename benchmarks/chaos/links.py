"""Faults between the fleet and its data: rights, a slow link, a DNS and a log that fail, pauses, junk."""

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import redis

from benchmarks.chaos.faults import FAULTS, fault
from benchmarks.chaos.fleet import KEYS, Fleet, Line, within
from benchmarks.chaos.net import HANG

NEEDED = ("evalsha", "hset", "hgetall", "set", "get", "time")
"""Without one of these rights no result can be delivered: the replica must decide alone."""
OTHERS = ("publish", "xadd", "zadd", "zcard", "zrem", "hget", "eval", "ping")
SOLO = ("alpha", "beta")
"""Providers whose circuit one replica opens alone."""
DECK: list[str] = []
JUNK: list[bytes] = [
    b"",
    b"\xff\xfe\x00",
    b"not JSON",
    b"null",
    b"[]",
    b'"event"',
    b"7",
    b"{}",
    b'{"event": 7}',
    b'{"event": null, "provider": null}',
    b'{"event": "no such event", "provider": "alpha"}',
    b'{"event": "transition", "provider": "alpha"}',
    b'{"event": "transition", "provider": ["alpha"], "health": {}}',
    b'{"event": "transition", "provider": "alpha", "from": "foo", "to": "bar", "reason": 7, "generation": "x"}',
    b'{"event": "averages", "provider": "alpha", "health": {}}',
    b'{"event": "averages", "provider": "alpha", "health": ["circuit_state", "open"]}',
    b'{"event": "averages", "provider": "alpha", "health": "closed"}',
    b'{"event": "averages", "provider": {"alpha": 1}}',
    b'{"event": "averages", "provider": "alpha", "health": {"circuit_state": "foo", "version": "1e999"}}',
    b'{"event": "registered", "provider": "nobody"}',
    b'{"event": "deregistered", "provider": "nobody"}',
    b'{"event": "deregistered", "provider": "alpha"}',
    b'{"event": "resigned"}',
    b'{"event": "averages", "health": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"event": "averages", "provider": "' + b"x" * 100_000 + b'"}',
]


def decides_alone(fleet: Fleet, line: Line, names: Iterable[str]) -> None:
    """A provider goes down for these replicas, cut off from Redis: how long until each opened its circuit alone."""
    names, began = list(names), time.time()
    down = line["down_alone"] = fleet.draw.choice(SOLO)
    fleet.tell(f"down {down}", names)

    def when(name: str) -> float | None:
        for seen in fleet.since(name, began, "saw"):
            if seen["alone"] and seen["provider"] == down and seen["after"] == "open":
                return round(seen["t"] - began, 3)
        return None

    within(8.0, lambda: all(when(name) is not None for name in names))
    line["decided"] = {name: when(name) for name in names}
    fleet.tell("free", names)


@contextmanager
def without(fleet: Fleet, right: str) -> Iterator[None]:
    """The fleet's user lacks a right, at both servers."""
    for port in fleet.proxies:
        with redis.Redis(port=port) as admin:
            admin.execute_command("ACL", "SETUSER", "router", f"-{right}")
    try:
        yield
    finally:
        for port in fleet.proxies:
            fleet.grant(port)


def rights(right: str | None, fleet: Fleet, line: Line) -> None:
    """Somebody takes a right away, and notices some seconds later."""
    if right is None:
        if not DECK:
            DECK.extend(fleet.draw.sample((*NEEDED[2:], *OTHERS), len(NEEDED) - 2 + len(OTHERS)))
        right = DECK.pop()
    line["detail"] = f"-{right}"
    with without(fleet, right):
        if right in NEEDED:
            decides_alone(fleet, line, fleet.replicas)
        else:
            within(3.0, lambda: False)


for _name, _right in {"rights_evalsha": "evalsha", "rights_hset": "hset", "rights_other": None}.items():
    FAULTS[_name] = partial(rights, _right)


@fault
def slow_link(fleet: Fleet, line: Line) -> None:
    """100 to 300 ms for each way: one command in four or so takes longer than the time-out."""
    for proxy in fleet.proxies.values():
        proxy.latency = (0.1, 0.3)
    within(fleet.draw.uniform(4.0, 6.0), lambda: False)
    for proxy in fleet.proxies.values():
        proxy.latency = (0.0, 0.0)


@fault
def dns_hangs(fleet: Fleet, line: Line) -> None:
    """One replica loses its connections, and looks the name up in vain for ten seconds."""
    name = line["victim"] = fleet.draw.choice(list(fleet.replicas))
    fleet.tell("dns hangs", [name])
    _cut(fleet)
    decides_alone(fleet, line, [name])
    fleet.tell("dns works", [name])
    works_again = time.time()
    within(HANG + 5.0, lambda: fleet.since(name, works_again, "applied"))  # what hangs, hangs to its end


@fault
def log_raises(fleet: Fleet, line: Line) -> None:
    """The application's log handler raises in every replica, while there is much to say."""
    fleet.tell("log raises")
    _cut(fleet)
    down = fleet.one_closed()
    fleet.tell(f"down {down}")
    within(2.0, lambda: False)
    fleet.tell("free")
    fleet.tell("log works")


def _cut(fleet: Fleet) -> None:
    with fleet.admin() as admin:
        for kind in ("normal", "pubsub"):
            admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


@fault
def paused_all(fleet: Fleet, line: Line) -> None:
    """Redis stops serving, too short for a failover."""
    seconds = fleet.draw.uniform(0.55, 0.75)
    with fleet.admin() as admin:
        admin.execute_command("CLIENT", "PAUSE", round(seconds * 1000), "ALL")
    within(seconds, lambda: False)
    fleet.wait_served()
    line["served"] = time.time()


@fault
def paused_write(fleet: Fleet, line: Line) -> None:
    """Redis answers a ping and takes no writes, as while a failover is prepared."""
    with fleet.admin() as admin:
        admin.execute_command("CLIENT", "PAUSE", 20_000, "WRITE")
        decides_alone(fleet, line, fleet.replicas)
        admin.execute_command("CLIENT", "UNPAUSE")
    fleet.wait_served()


@fault
def junk_published(fleet: Fleet, line: Line) -> None:
    """Somebody else talks on the channel."""
    noise = random.Random(fleet.draw.random())
    with fleet.admin() as admin:
        for message in [*JUNK, *(noise.randbytes(noise.randrange(1, 200)) for _ in range(20))]:
            admin.publish(KEYS.channel, message)
