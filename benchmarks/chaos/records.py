"""Faults of the data: single keys that are lost, fields that a hand mangled, keys that hold another type.

Each hits one provider, or one key of the fleet. The line says which keys are gone and whose record is broken: what was
in them is lost by the fault itself, and the verdict excuses that and nothing else.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import redis

from benchmarks.chaos import truth
from benchmarks.chaos.faults import FAULTS, fault, wait_restored
from benchmarks.chaos.fleet import KEYS, SHUNNED, Fleet, Line, within
from redis_router.errors import RouterError

BROKEN_SECONDS = 4.0
"""For so long a broken record stays broken at least."""
CALMED_SECONDS = 2.0
"""So long after a provider went down, no call to it is under way that is not a trial call."""
DECK: dict[str, list[tuple[str, bytes, bytes]]] = {}
MANGLED: dict[str, Sequence[tuple[bytes, bytes]]] = {
    "mangled_bytes": [
        (b"circuit_state", b"\xff\xfe"),
        (b"open_reason", b"\x80\x81"),
        (b"last_failure", b"\xff"),
        (b"a\xc3\x28", b"\xff"),
    ],
    "mangled_state": [(b"circuit_state", b"foo"), (b"circuit_state", b"")],
    "mangled_number": [
        (b"latency_ms", b"nan"),
        (b"failure_rate", b"inf"),
        (b"failure_rate", b"foo"),
        (b"open_timeout_ms", b"-600"),
        (b"generation", b"-7"),
        (b"consecutive_failures", b"-inf"),
        (b"half_open_max_probes", b"1e400"),
        (b"weight", b"nan"),
    ],
    "mangled_moment": [
        (b"last_state_change_ms", b"1e17"),
        (b"last_check_ms", b"1e17"),
        (b"last_push_ms", b"1e17"),
        (b"cooldown_until_ms", b"1e17"),
        (b"version", b"1e17"),
    ],
}


# Keys that are lost


def lost(kind: str, fleet: Fleet, line: Line) -> None:
    """One key of this kind is evicted, as a Redis that is short of memory does."""
    if not _found(kind, fleet, line):
        return
    with fleet.admin() as admin:
        if kind == "spec":
            admin.hdel(KEYS.providers, line["provider"])
        else:
            admin.delete(line["gone"][0])
    fleet.tell("free")


def _found(kind: str, fleet: Fleet, line: Line) -> bool:
    """Choose a key of this kind for the line; where it is rarely there, see to it that it is."""
    if kind == "reporters":
        fleet.tell(f"shaky {SHUNNED}")
    if kind == "permits":
        trial = line["provider"] = fleet.one_closed()
        fleet.tell(f"down {trial}")
        within(5.0, lambda: fleet.state(trial) == "open")
        for command in ("fine", "slow"):
            fleet.tell(f"{command} {trial}")
    line["missed"] = within(8.0, lambda: _key(kind, fleet, line)) is None
    if line["missed"]:
        fleet.tell("free")
    if kind == "events":
        fleet.keep_history()
    return not line["missed"]


def _key(kind: str, fleet: Fleet, line: Line) -> str:
    """A key of this kind that is there now, '' where there is none."""
    shared = {"leader": KEYS.leader, "seen": KEYS.seen, "spec": KEYS.providers, "providers": KEYS.providers}
    providers = fleet.draw.sample(truth.PROVIDERS, len(truth.PROVIDERS))
    with fleet.admin() as admin:
        if kind in shared:
            line["provider"] = providers[0] if kind == "spec" else ""
            line["gone"] = [shared[kind]]
            return shared[kind]
        for provider in (SHUNNED,) if kind == "reporters" else providers:
            patterns = {"seq": KEYS.seq(provider, "*"), "permits": KEYS.permits(provider)}
            pattern = patterns.get(kind) or getattr(KEYS, kind)(provider)
            keys = sorted(key.decode() for key in admin.scan_iter(match=pattern, count=1000))
            keys = [key for key in keys if not key.endswith(":half_open")]
            if keys:
                line["provider"], line["gone"] = provider, [fleet.draw.choice(keys)]
                return str(line["gone"][0])
    return ""


for _kind in ("permits", "seq", "events", "reporters", "spec", "leader", "seen"):
    FAULTS[f"lost_{_kind}"] = partial(lost, _kind)


@fault
def lost_health(fleet: Fleet, line: Line) -> None:
    """The record of a provider that is down: its circuit was open, and nobody sends it results that would tell."""
    name = line["provider"] = fleet.one_closed()
    line["gone"] = [KEYS.health(name)]
    fleet.tell(f"down {name}")
    within(CALMED_SECONDS, lambda: False)
    line["missed"] = within(10.0, lambda: fleet.state(name) == "open") is None
    with fleet.admin() as admin:
        wait_restored(fleet, line, [name], lambda: admin.delete(KEYS.health(name)))
    fleet.tell("free")


# Records that cannot be used


def broken(fleet: Fleet, line: Line, harm: Callable[[str], None], mend: Callable[[str], None]) -> None:
    """A record is broken for some seconds, and then put right: meanwhile one neighbour goes down, the others work."""
    name = line["provider"] = line["broken"] = fleet.one_closed()
    down = line["down"] = fleet.one_closed(each for each in truth.PROVIDERS if each != name)
    line["was_closed"] = fleet.state(name) == "closed"
    line["gone"] = [KEYS.health(name)]
    for fine in truth.PROVIDERS:
        if fine != down:
            fleet.tell(f"fine {fine}")
    harm(name)
    broken_at = time.time()
    fleet.tell(f"down {down}")
    line["opened"] = within(10.0, lambda: fleet.state(down) == "open", broken_at)
    within(BROKEN_SECONDS, lambda: False, broken_at)
    line["mended"] = time.time()
    mend(name)
    line["whole"] = within(20.0, lambda: fleet.state(name) in ("closed", "open", "half_open"))
    fleet.tell("free")


def mangled(kind: str, fleet: Fleet, line: Line) -> None:
    """A field holds what no script ever wrote."""
    if not DECK.get(kind):
        DECK[kind] = fleet.draw.sample(MANGLED[kind], len(MANGLED[kind]))  # type: ignore[arg-type]
    field, value = DECK[kind].pop()
    line["detail"] = f"{field!r} = {value!r}"
    put_back = kind in ("mangled_number", "mangled_moment") and field != b"generation" and fleet.draw.random() < 0.5
    before: dict[bytes, bytes] = {}

    def harm(name: str) -> None:
        before.update(fleet.fields(name))
        with fleet.admin() as admin:
            admin.hset(KEYS.health(name), field, value)

    def mend(name: str) -> None:
        with fleet.admin() as admin:
            if put_back and field in before:
                admin.hset(KEYS.health(name), field, before[field])
            else:
                admin.delete(KEYS.health(name))

    broken(fleet, line, harm, mend)


for _kind in MANGLED:
    FAULTS[_kind] = partial(mangled, _kind)


@fault
def wrong_type_health(fleet: Fleet, line: Line) -> None:
    """Somebody's SET took the place of a record."""
    with fleet.admin() as admin:
        broken(
            fleet,
            line,
            lambda name: admin.set(KEYS.health(name), "not a hash"),
            lambda name: admin.delete(KEYS.health(name)),
        )


def wrong_type(kind: str, fleet: Fleet, line: Line) -> None:
    """Another key holds another type for two seconds."""
    if not _found(kind, fleet, line):
        return
    key = line["gone"][0]
    with fleet.admin() as admin:
        if kind == "seq":
            admin.pipeline().delete(key).lpush(key, "not a string").execute()
        else:
            admin.set(key, "not what it was")
        within(2.0, lambda: False)
        admin.delete(key)
    fleet.tell("free")


for _kind in ("permits", "seq", "events", "reporters", "providers", "leader", "seen"):
    FAULTS[f"wrong_type_{_kind}"] = partial(wrong_type, _kind)


@fault
def weight_zero(fleet: Fleet, line: Line) -> None:
    """A hand drains a provider: no calls for it as long as the weight is 0."""
    name = line["provider"] = line["drained"] = fleet.one_closed()
    fleet.tell(f"fine {name}")
    with fleet.admin() as admin:
        admin.hset(KEYS.health(name), "weight", "0")
        within(BROKEN_SECONDS, lambda: False)
        line["mended"] = time.time()
        try:
            fleet.store().update(name, {"weight": "1"})
        except RouterError as error:
            line["detail"] = f"the weight was not put back by the library: {error}"
            with suppress(redis.RedisError):
                admin.hset(KEYS.health(name), "weight", "1")
    fleet.tell("free")
