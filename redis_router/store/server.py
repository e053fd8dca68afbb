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
from redis_router.store.messages import pairs

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

    def rights_that_lack(self, keys: Keys) -> list[str]:
        """What this user is not allowed, and on which key: `hset rr:providers`, `del rr:{name}:health`.

        A server looks at rights before it looks at what a command means. So each is asked in a form that writes
        nothing: for a key that does not exist, or with a value too many.
        """
        nobody, lacking = self._name_of_nobody(keys), []
        for command in _harmless(keys, nobody):
            key = next((word for word in command[1:] if str(word).startswith(f"{keys.namespace}:")), "")
            if command[0] not in _WITHOUT_KEYS and not self._has(key):
                continue
            try:
                self._ask(*command)
            except AccessDenied:
                lacking.append(f"{command[0].lower()} {key.replace(nobody, 'name')}".strip())
            except (RouterError, NoScript):  # allowed, and that is the question here
                continue
        return lacking + self._subscribing(keys.channel)

    def _subscribing(self, channel: str) -> list[str]:
        subscription = None
        try:
            subscription = self._commands.subscribe(channel)
            subscription.next(1.0)
        except AccessDenied:
            return [f"subscribe {channel}"]
        finally:
            if subscription is not None:
                subscription.close()
        return []

    def _name_of_nobody(self, keys: Keys) -> str:
        """One that no provider can have; in a cluster its keys would be of this node."""
        while True:
            name = f"?{secrets.token_hex(8)}"
            if self._has(keys.health(name)):
                return name

    def _has(self, key: str) -> bool:
        """Is this a key of this node?"""
        return not self._target or bool(self._client.get_node_from_key(key).name == self.name)

    def _ask(self, *command: Any) -> Any:
        how = {} if command[0] == "PING" else RAW  # redis-py cannot have a cluster's PING in bytes
        with self._commands.asking():
            return self._client.execute_command(*command, **self._target, **how)


def nodes(client: Client) -> list[Node]:
    """The server, or the masters of the cluster."""
    with Commands(client).asking():  # a cluster is asked for its nodes when it is first used
        if hasattr(client, "get_primaries"):
            return [Node(client, node.name, {"target_nodes": node}) for node in client.get_primaries()]
    return [Node(client, "", {})]


_WITHOUT_KEYS = {"TIME", "PING", "PUBLISH"}


def _harmless(keys: Keys, nobody: str) -> Sequence[tuple[Any, ...]]:
    """All that docs/operations.md gives a user."""
    health, permits, events = keys.health(nobody), keys.permits(nobody), keys.events(nobody)
    seq, in_flight = keys.seq(nobody, "doctor"), keys.in_flight(nobody)
    singles = (keys.providers, keys.seen, keys.replicas)
    return (
        ("TIME",),
        ("PING",),
        ("PUBLISH", keys.channel, ""),  # no message of ours: who hears it goes on
        ("EVAL", "return 1", 1, health),
        ("EVALSHA", "0" * 40, 1, health),
        *(("HSET", key, "field", "value", "too many") for key in (health, in_flight, *singles, keys.leader)),
        *(("HDEL", key, nobody) for key in (*singles, in_flight)),
        ("HGET", health, "circuit_state"),
        *(("HGETALL", key) for key in (health, *singles)),
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
        ("PEXPIRE", keys.replicas, "no number"),
        ("PERSIST", events),
    )
