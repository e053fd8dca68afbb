"""Who leads, by the lease: the words of those that died may say so of several."""

from dataclasses import replace

from redis_router.operate import fleet
from redis_router.replicas import compared
from redis_router.store.contract import Snapshot
from redis_router.store.messages import Leader
from redis_router.store.presence import GATEWAY, Presence

NOW_MS = 1_800_000_000_000


def word(name, role, ago_ms, session):
    """What a process said so long ago."""
    return Presence(session, name, role, "1", "h", 1, 0, seen_ms=NOW_MS - ago_ms)


def roles(leader, *said):
    """By session."""
    found = compared(said, Snapshot(NOW_MS, leader, {}, {}, {}, {}))
    return {each.session: each.role for each in found}


def test_one_leads_however_many_said_so():
    """Also of those that bear its name, and where its own word is older than its term."""
    said = (
        word("gw-1", GATEWAY, 1_000, "a"),
        word("w-1", "leader", 90_000, "b"),
        word("w-2", "leader", 60_000, "c"),
        word("w-2", "standby", 9_000, "d"),
    )
    lease = Leader("w-2", 7, NOW_MS - 3_000, NOW_MS + 12_000, 12_000)
    assert roles(lease, *said) == {"a": "gateway", "b": "standby", "c": "standby", "d": "leader"}


def test_nobody_leads_when_the_lease_is_over():
    """The last one's word still says it."""
    said = word("w-1", "leader", 20_000, "a")
    assert roles(Leader("w-1", 7, NOW_MS - 60_000, NOW_MS - 5_000, -5_000), said) == {"a": "standby"}
    assert roles(None, said) == {"a": "standby"}


def test_a_moment_alone_is_not_worth_a_word():
    """A frozen process was alone for some ms, as far as it can tell."""
    (found,) = compared([word("gw-1", GATEWAY, 1_000, "a")], Snapshot(NOW_MS, None, {}, {}, {}, {}))
    assert fleet.view(replace(found, alone_ms=4, alone_until_ms=NOW_MS - 9_000), NOW_MS) == ""
    assert fleet.view(replace(found, alone_ms=40_000, alone_until_ms=NOW_MS - 9_000), NOW_MS) == (
        "was alone for 40 s, until 9 s ago"
    )
