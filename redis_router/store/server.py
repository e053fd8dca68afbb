"""What a Redis server says of itself, for `redis-router doctor`: of a cluster each master is one.

Every method raises RedisUnavailable or RedisRefused.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from redis_router.errors import AccessDenied, RouterError
from redis_router.store.commands import RAW, Commands
from redis_router.store.connect import Client, NoPermission, NoScript
from redis_router.store.keys import Keys
from redis_router.store.messages import pairs, text

Info = Mapping[str, Any]
"""INFO, by the names of its lines."""


class Node:
    """One server."""

    def __init__(self, client: Client, name: str, target: Mapping[str, Any]) -> None:
        self.name = name
        """host:port in a cluster, '' where there is one server only."""
        self._client = client
        self._target = target
        self._commands = Commands(client)

    def round_trip_ms(self) -> float:
        """Of a PING. Its refusal is an answer as well; that of the login, or of its database, is none."""
        began = time.perf_counter()
        try:
            self._ask("PING")
        except AccessDenied as error:
            if not isinstance(error.__cause__, NoPermission) or "'select'" in str(error):
                raise
        return (time.perf_counter() - began) * 1000

    def clock_ahead_ms(self) -> tuple[float, float]:
        """How far its clock is ahead of this machine's, and how wrong that may be: half of the way there and back."""
        before = time.time()
        seconds, micros = self._ask("TIME")
        after = time.time()
        return (seconds + micros / 1e6 - (before + after) / 2) * 1000, (after - before) * 500

    def info(self) -> Info:
        """All sections that INFO gives by itself."""
        found: Info = self._ask("INFO")
        return found

    def setting(self, name: str) -> str:
        """CONFIG GET; '' where there is no such setting."""
        return pairs(self._ask("CONFIG", "GET", name)).get(name, "")

    def _ask(self, *command: Any) -> Any:
        with self._commands.asking():
            return self._client.execute_command(*command, **self._target, **_answered(command))


def _answered(command: Sequence[Any]) -> Mapping[str, Any]:
    """In bytes, but for PING: redis-py cannot have a cluster's like that."""
    return {} if command[0] == "PING" else RAW


def nodes(client: Client) -> list[Node]:
    """The server, or the masters of the cluster."""
    with Commands(client).asking():  # a cluster is asked for its nodes when it is first used
        if hasattr(client, "get_primaries"):
            return [Node(client, node.name, {"target_nodes": node}) for node in client.get_primaries()]
    return [Node(client, "", {})]


def rights_that_lack(client: Client, keys: Keys) -> list[str]:
    """Each command that this user is not allowed, and on which key: `hset rr:providers`, `del rr:{name}:health`.

    Redis looks at rights before it looks at what a command means. So each is asked in a form that writes nothing:
    for a key that does not exist, or with a value too many.
    """
    commands = Commands(client)
    nobody, lacking = f"?{secrets.token_hex(8)}", []
    for command in _harmless(keys, nobody):
        try:
            with commands.asking():
                client.execute_command(*command, **_answered(command))
        except AccessDenied:
            on = next((text(word) for word in command[1:] if str(word).startswith(f"{keys.namespace}:")), "")
            lacking.append(f"{command[0].lower()} {on.replace(nobody, 'name')}".strip())
        except (RouterError, NoScript):  # allowed, and that is the question here
            continue
    return lacking + _subscribing(commands, keys.channel)


def _subscribing(commands: Commands, channel: str) -> list[str]:
    try:
        subscription = commands.subscribe(channel)
    except AccessDenied:
        return [f"subscribe {channel}"]
    try:
        subscription.next(1.0)
    except AccessDenied:
        return [f"subscribe {channel}"]
    finally:
        subscription.close()
    return []


def _harmless(keys: Keys, nobody: str) -> Sequence[tuple[Any, ...]]:
    """What docs/operations.md gives a user. `nobody` is a name that no provider can have."""
    health, permits, events = keys.health(nobody), keys.permits(nobody), keys.events(nobody)
    seq, in_flight = keys.seq(nobody, "doctor"), keys.in_flight(nobody)
    return (
        ("TIME",),
        ("PING",),
        ("PUBLISH", keys.channel, ""),  # no message of ours: who hears it goes on
        ("EVAL", "return 1", 1, health),
        ("EVALSHA", "0" * 40, 1, health),
        *(("HSET", key, "field", "value", "too many") for key in (health, keys.providers, keys.seen, keys.leader)),
        ("HSET", in_flight, "field", "value", "too many"),
        *(("HDEL", key, nobody) for key in (keys.providers, keys.seen, in_flight)),
        ("HGET", health, "circuit_state"),
        *(("HGETALL", key) for key in (health, keys.providers, keys.seen)),
        *(("HMGET", key, nobody) for key in (health, keys.providers, keys.leader)),
        ("GET", seq),
        ("SET", seq, "", "XX"),
        ("DEL", health),
        ("ZADD", permits, "XX", 1, nobody),
        ("ZCARD", permits),
        ("ZREM", permits, nobody),
        ("ZREMRANGEBYSCORE", permits, 0, 0),
        ("ZSCORE", permits, nobody),
        ("XADD", events, "NOMKSTREAM", "*", "field", "value"),
        ("PEXPIRE", seq, 1000),
        ("PERSIST", events),
    )
