"""Checks of Redis itself: there, new enough, allowed, with room, and what it would lose."""

import ipaddress
import re
import socket
from collections.abc import Iterator, Sequence
from statistics import median
from urllib.parse import unquote, urlsplit

from redis_router.cli.checkup.finding import ERROR, OK, WARNING, Patient, Said, folded
from redis_router.cli.terminal import lasted
from redis_router.errors import AccessDenied, RouterError
from redis_router.store.server import Info, Node

PINGS = 5
SLOW_MS = 50.0
"""A tenth of the time for which an answer is waited for."""
OLDEST = (7, 0)
CLOCK_MS = 1000.0
NEARLY_FULL = 0.9

_GB = 1 << 30
_MB = 1 << 20


_NOT_THERE = "start Redis, or put host and port right in --redis"
_CURES = {
    "is loading": "wait: Redis loads its data, and INFO persistence says how far it is",
    "is busy": "a script runs for too long: SCRIPT KILL, and find out whose it is",
    "max number of clients": "raise maxclients, or find out who holds so many connections: CLIENT LIST",
    "certificate": "name the authority in --redis: ?ssl_ca_certs=/path/to/ca.pem",
    "masterdown": "bring the master of this replica back, or name another server in --redis",
}
"""What to do where a server is there and does not serve, by words of its error."""


def connection(patient: Patient) -> Iterator[Said]:
    """Raises nothing: a server that is not there is an error by itself."""
    where = patient.store.where
    try:
        took = [median(node.round_trip_ms() for _ in range(PINGS)) for node in patient.nodes]
    except AccessDenied as error:
        lacks_select = "'select'" in str(error)
        login = "put user and password right in --redis, percent-encoded"
        yield Said(ERROR, f"{where}: {error}", f"ACL SETUSER {_user(patient.url)} +select" if lacks_select else login)
        return
    except RouterError as error:
        advice = next((does for words, does in _CURES.items() if words in str(error).lower()), _NOT_THERE)
        yield Said(ERROR, f"{where}: {error}", advice)
        return
    by, foreign = _way(patient.url)
    found = f"{where} answers in {max(took):.2f} ms, {by}"
    if foreign:
        yield Said(WARNING, found, "passwords and records can be read on the way: use rediss:// (TLS)")
    elif max(took) > SLOW_MS:
        yield Said(
            WARNING, found, "transitions arrive late: bring Redis nearer to the gateways, or find out what it does"
        )
    else:
        yield Said(OK, found)


def _way(url: str) -> tuple[str, bool]:
    """How the connection is made, and does it go unencrypted over a foreign network?"""
    scheme = url.partition("://")[0].lower()
    if scheme.startswith("rediss"):
        return "encrypted", False
    if scheme == "unix":
        return "through a socket of this machine", False
    addresses = [address for host in _hosts(url) for address in _addresses(host)]
    if any(address.is_global for address in addresses):
        return "not encrypted, over a public network", True
    if addresses and all(address.is_loopback for address in addresses):
        return "on this machine", False
    return "not encrypted", False


def _hosts(url: str) -> list[str]:
    authority = re.split(r"[/?]", url.partition("://")[2], maxsplit=1)[0]
    found = (urlsplit(f"//{part}").hostname for part in authority.rpartition("@")[2].split(","))
    return [host for host in found if host]


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """None where the name is not known here."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    except (OSError, ValueError):
        return []


def version(patient: Patient) -> Iterator[Said]:
    """By INFO: Valkey names itself there, others by their program."""
    yield from patient.each(_version)


def _version(node: Node, info: Info) -> Iterator[Said]:
    kind, number = _kind(info)
    found = f"{kind} {number}"
    if kind not in ("Redis", "Valkey"):
        yield Said(WARNING, found, "the library is tested with Redis and Valkey: use one of these")
    elif kind == "Redis" and tuple(map(int, re.findall(r"\d+", number)[:2])) < OLDEST:
        yield Said(ERROR, found, f"upgrade to Redis {OLDEST[0]}.{OLDEST[1]} or newer, or to Valkey")
    else:
        yield Said(OK, found)


def _kind(info: Info) -> tuple[str, str]:
    for name, kind in (("valkey_version", "Valkey"), ("dragonfly_version", "Dragonfly"), ("garnet_version", "Garnet")):
        if name in info:
            return kind, str(info[name])
    kind = "KeyDB" if "keydb" in str(info.get("executable", "")) else "Redis"
    return kind, str(info.get("redis_version", "of an unknown version"))


def permissions(patient: Patient) -> Iterator[Said]:
    """By asking: nothing is written. Each node of a cluster has users of its own."""
    user, keys = _user(patient.url), patient.store.keys
    every = [(node, _permissions(user, keys.namespace, node.rights_that_lack(keys))) for node in patient.nodes]
    yield from folded(every)


def _permissions(user: str, namespace: str, lacking: Sequence[str]) -> Said:
    if not lacking:
        return Said(OK, f"user {user} may do all that a gateway and a worker do on {namespace}:*")
    commands = " ".join(sorted({f"+{each.partition(' ')[0]}" for each in lacking}))
    return Said(
        ERROR,
        f"user {user} is refused: {', '.join(lacking)}",
        f"ACL SETUSER {user} ~{namespace}:* &{namespace}:events {commands}",
    )


def _user(url: str) -> str:
    authority = re.split(r"[/?]", url.partition("://")[2], maxsplit=1)[0]
    login = authority.rpartition("@")[0].partition(":")[0]
    return unquote(login) or "default"


def eviction(patient: Patient) -> Iterator[Said]:
    """Records have no time to live: allkeys-* may evict them, volatile-* does not."""
    yield from patient.each(_eviction)


def _eviction(node: Node, info: Info) -> Iterator[Said]:
    policy, most = str(info.get("maxmemory_policy", "unknown")), int(info.get("maxmemory", 0))
    if not policy.startswith("allkeys"):
        yield Said(OK, f"maxmemory-policy {policy}: records are not evicted")
    elif not most:
        yield Said(
            WARNING,
            f"maxmemory-policy {policy}, and no maxmemory yet: with one, records are evicted",
            "CONFIG SET maxmemory-policy noeviction, and in redis.conf as well",
        )
    else:
        yield Said(
            ERROR,
            f"maxmemory-policy {policy} with maxmemory {_size(most)}: it evicts records and the lease"
            f" ({info.get('evicted_keys', 0)} keys evicted since Redis started)",
            "CONFIG SET maxmemory-policy noeviction, or give the router a Redis of its own",
        )


def memory(patient: Patient) -> Iterator[Said]:
    """Used, of maxmemory."""
    yield from patient.each(_memory)


def _memory(node: Node, info: Info) -> Iterator[Said]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        yield Said(OK, f"{_size(used)} used, no maxmemory")
        return
    found, advice = f"{_size(used)} used of maxmemory {_size(most)}", "raise maxmemory, or find out what fills Redis"
    if used >= most and not str(info.get("maxmemory_policy", "")).startswith("allkeys"):
        yield Said(ERROR, f"{found}: it refuses writes, and each replica decides alone", advice)
    elif used >= NEARLY_FULL * most:
        yield Said(WARNING, found, advice)
    else:
        yield Said(OK, found)


def _size(count: int) -> str:
    return f"{count / _GB:.1f} GB" if count >= _GB else f"{count / _MB:.1f} MB"


def clock(patient: Patient) -> Iterator[Said]:
    """Redis's, against this machine's."""
    yield from folded([(node, _clock(*node.clock_ahead_ms())) for node in patient.nodes])


def _clock(ahead_ms: float, give_or_take_ms: float) -> Said:
    if abs(ahead_ms) - give_or_take_ms <= CLOCK_MS:
        return Said(OK, f"Redis's clock is within {max(1, round(abs(ahead_ms)))} ms of this machine's")
    side = "ahead of" if ahead_ms > 0 else "behind"
    return Said(
        WARNING,
        f"Redis's clock is {lasted(abs(ahead_ms))} {side} this machine's",
        "set both by NTP: circuits go by Redis's clock alone, but a failover to another clock moves their deadlines,"
        " and rate limits that give a moment are misread",
    )


def persistence(patient: Patient) -> Iterator[Said]:
    """What is lost at a restart; and does a failed save make Redis refuse writes?"""
    yield from patient.each(_persistence)


def _persistence(node: Node, info: Info) -> Iterator[Said]:
    if info.get("loading"):
        yield Said(ERROR, "Redis is loading its data, and serves nobody", "wait: INFO persistence says how long")
        return
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if info.get(name, "ok") != "ok"
    ]
    if failed:
        yield Said(
            ERROR,
            f"{', '.join(failed)}: err; Redis may refuse writes (MISCONF)",
            "look at its log and its disk: there is no room, or no right to write",
        )
    if info.get("aof_enabled"):
        yield Said(OK, "appendonly yes: a restart loses about a second")
        return
    try:
        save = node.setting("save")
    except RouterError:
        save = None
    how = {None: "appendonly no, save unknown", "": "appendonly no, save off"}.get(save, f"appendonly no, save {save}")
    lost = "everything" if not save else "what came after the last save"
    yield Said(
        OK,
        f"{how}: a restart loses {lost}; gateways that run put their records back",
        "where drains and thresholds set by hand must outlast a time without gateways: CONFIG SET appendonly yes",
    )


def replication(patient: Patient) -> Iterator[Said]:
    """A read-only replica refuses every write, and so does a master that lacks its replicas."""
    yield from patient.each(_replication)


def _replication(node: Node, info: Info) -> Iterator[Said]:
    if info.get("role") != "master":
        yield Said(
            ERROR,
            f"this is a replica of {info.get('master_host')}:{info.get('master_port')}"
            f" (link {info.get('master_link_status')}): it refuses writes",
            "name the master in --redis, or the sentinels: redis+sentinel://host:26379/mymaster/0",
        )
        return
    replicas = int(info.get("connected_slaves", 0))
    if info.get("master_failover_state", "no-failover") != "no-failover":
        yield Said(WARNING, f"a failover is under way: {info['master_failover_state']}", "wait, and look again")
    least = _least_replicas(node)
    good = int(info.get("min_slaves_good_slaves", replicas))
    if least and good < least:
        yield Said(
            ERROR,
            f"min-replicas-to-write is {least}, and {good} of its replicas are well: it refuses writes (NOREPLICAS)",
            "bring the replicas back, or CONFIG SET min-replicas-to-write 0",
        )
    elif replicas:
        yield Said(OK, f"master with {replicas} of its replicas connected")
    else:
        yield Said(OK, "master without replicas: where it dies, gateways decide alone until it is back")


def _least_replicas(node: Node) -> int:
    """0 where nobody says; INFO has no line for it."""
    try:
        return int(node.setting("min-replicas-to-write") or 0)
    except RouterError:
        return 0
