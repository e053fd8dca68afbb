"""Overrides: what somebody on call says for a time, through a router or through a plain `Operator`."""

from collections.abc import Callable
from contextlib import closing
from typing import Any, Self

from redis_router.checks import MAX_REASON, check_flag, check_name, check_number, check_text, check_weight
from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.overrides import END, HOUR_SECONDS, Override, check_override
from redis_router.errors import InvalidArgument, RedisRefused, UnknownProvider
from redis_router.replicas import Replica, replicas
from redis_router.runtime.names import operator_name
from redis_router.store.contract import Snapshot, Store
from redis_router.store.messages import LoggedEvent, Reply
from redis_router.store.opening import open_store, open_target

ALL = "*"
"""As a name: every provider that is registered in the fleet."""


class Overriding:
    """What a router and a plain `Operator` have in common. Each call waits for Redis and holds for the whole fleet."""

    def override(
        self,
        name: str,
        override: Override | str,
        *,
        seconds: float | None = HOUR_SECONDS,
        weight: float | None = None,
        reason: str = "",
        by: str | None = None,
    ) -> None:
        """Say for a time what calls see of a provider, whatever the rules say.

        name      of a provider, here or in the fleet; of a record, `name/model`; or `*` for all of the fleet
        override  drain, force_open: no new calls; force_closed, observe: calls flow; or weight, with `weight=`
        seconds   until it ends by itself, by Redis's clock: an hour; None for ever, or until `end_override`
        reason    for people, in the record and the log: at most 200 characters
        by        who says so: user and host where not given

        An override of the state replaces the one before it; one of the weight stands beside it.
        Raises UnknownProvider, InvalidArgument, RedisUnavailable, RedisRefused.
        """
        by = self._actor(by)
        word, lasts_ms, to = check_override(override, seconds, weight, reason, by)
        self._say(name, word, lasts_ms, to, by, reason)

    def drain(
        self, name: str, *, seconds: float | None = HOUR_SECONDS, reason: str = "", by: str | None = None
    ) -> None:
        """No new calls for so long; those under way end. The same as `override(name, "drain", …)`."""
        self.override(name, Override.DRAIN, seconds=seconds, reason=reason, by=by)

    def end_override(self, name: str, *, reason: str = "", by: str | None = None) -> None:
        """End the overrides of a provider, of its weight too: what the rules say now counts. Raises as `override`."""
        by = self._signed(by, reason)
        self._say(name, END, 0, 0.0, by, reason)

    def reset(self, name: str, *, reason: str = "", by: str | None = None) -> None:
        """Have the rules begin anew: the circuit is closed, and what calls taught of the provider is forgotten.

        Settings, overrides, what an operator or a probe said of it, and a rate limit stay. Raises as `override`.
        """
        self._reset(name, self._signed(by, reason), reason)

    def update_health(
        self,
        name: str,
        *,
        available: bool | None = None,
        weight: float | None = None,
        reason: str = "",
        by: str | None = None,
    ) -> None:
        """Take a provider out of service or back in, or change its weight, until somebody says otherwise.

        `available=False` holds until `available=True`: neither probes nor the circuit override an operator.
        `available=True` also ends a rate limit's cooldown. Names, `reason`, `by` and
        errors are as in `override`.
        """
        by = self._signed(by, reason)
        self._update(name, health_fields(name, available, weight), by, reason)

    def _actor(self, by: str | None) -> str:
        """Who acts, where nobody said."""
        return operator_name() if by is None else by

    def _signed(self, by: str | None, reason: str) -> str:
        """Who acts. Raises InvalidArgument where that or the reason cannot be used."""
        by = self._actor(by)
        check_text("reason", reason, MAX_REASON)
        check_text("by", by, 64)
        return by

    def _say(self, name: str, word: str, lasts_ms: int, weight: float, by: str, reason: str) -> None:
        raise NotImplementedError

    def _reset(self, name: str, by: str, reason: str) -> None:
        raise NotImplementedError

    def _update(self, name: str, fields: dict[str, str], by: str, reason: str) -> None:
        raise NotImplementedError


def names_in_fleet(store: Store, name: str, *, deregistered: bool = False) -> list[str]:
    """The records that a name stands for in the fleet. Raises UnknownProvider."""
    specs = store.specs()
    fleet = {record: spec.provider for record, spec in specs.items() if deregistered or not spec.deregistered}
    found = [record for record, whole in fleet.items() if name in (record, whole, ALL)]
    if found:
        return found
    raise UnknownProvider.among(str(name), {*fleet.values()} - {""}, "registered in the fleet")


def health_fields(name: str, available: bool | None, weight: float | None) -> dict[str, str]:
    """What `update_health` writes. Raises InvalidArgument where nothing is to be changed, or it cannot be used."""
    fields: dict[str, str] = {}
    if available is not None:
        fields["available"] = str(int(check_flag("available", available)))
    if weight is not None:
        fields["weight"] = repr(check_weight(weight))
    if not fields:
        raise InvalidArgument(f"nothing to change for provider {name!r}: give available= or weight=")
    return fields


def check_config(config: object) -> CircuitConfig:
    """Raises InvalidArgument for what is none."""
    if not isinstance(config, CircuitConfig):
        raise InvalidArgument(f"config is {config!r}: give a CircuitConfig")
    return config


class Operator(Overriding):
    """Looks at a fleet and acts on it, without being one of its replicas: it registers nothing and starts no thread.

    redis      a URL, or a client, as `Router` takes it
    namespace  the gateways'
    by         who acts, for the record and the log: user and host where not given

    Every method waits for Redis. Use it as a context manager, or close it. Raises InvalidArgument.
    """

    def __init__(self, redis: Any, namespace: str = "rr", *, by: str | None = None) -> None:
        self.by = check_name("by", operator_name() if by is None else by)
        self._opened = open_target(redis)
        self._owns = isinstance(redis, str)
        self._store = open_store(self._opened, check_name("namespace", namespace), self.by)

    def set_circuit_config(
        self, config: CircuitConfig, provider: str, *, reason: str = "", by: str | None = None
    ) -> None:
        """Change the thresholds of a provider; at once for the whole fleet. Names and errors are as in `override`."""
        by = self._signed(by, reason)
        self._update(provider, check_config(config).to_fields(), by, reason)

    def records(self, name: str, *, deregistered: bool = False) -> list[str]:
        """The names of the records that this stands for: a provider's, `provider/model`, or `*` for all in the fleet.

        Raises UnknownProvider, RedisUnavailable, RedisRefused.
        """
        return names_in_fleet(self._store, name, deregistered=deregistered)

    def events(self, name: str, *, since: float | None = None, most: int = 1000) -> list[LoggedEvent]:
        """What happened to a provider, oldest first: transitions, and what operators did, with who and why.

        `since` is how many seconds to look back; None for all that is kept. Also of a provider that was deregistered,
        for a week. It takes the right to `xrevrange`. Raises UnknownProvider, RedisUnavailable, RedisRefused.
        """
        found = [event for events in self.logs(name, since=since, most=most).values() for event in events]
        return sorted(found, key=lambda event: event.at_ms)[-most:]

    def logs(self, name: str, *, since: float | None = None, most: int = 1000) -> dict[str, list[LoggedEvent]]:
        """The same, for each record that the name stands for, `most` of each. Raises as `events`."""
        since_ms = 0
        if since is not None:
            back = check_number("since", since, most=1e9)
            since_ms = max(0, round(self._store.leader()[0] - back * 1000))
        records = names_in_fleet(self._store, name, deregistered=True)
        return {record: self._store.events(record, since_ms, most) for record in records}

    def status(self) -> Snapshot:
        """Every record as it stands in Redis, its clock, and who leads."""
        return self._store.snapshot()

    def in_flight(self, name: str) -> int:
        """Calls under way at a provider over the fleet, as its replicas said within the last minute.

        So those of a replica that died count for a minute at most; the record's own sum may have them for longer.
        Raises UnknownProvider, RedisUnavailable, RedisRefused.
        """
        now_ms, _ = self._store.leader()
        records = names_in_fleet(self._store, name)
        said = [self._store.surroundings(record).calls_at(now_ms) for record in records]
        return sum(each.calls for calls in said for each in calls.values())

    def replicas(self) -> list[Replica]:
        """Which gateways and workers are there, and whose view of the circuits differs; each says so every ten seconds.

        Raises RedisUnavailable, RedisRefused.
        """
        return replicas(self._store)

    def close(self) -> None:
        """Give the connection back, where a URL was given."""
        if self._owns:
            with closing(self._opened):
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _actor(self, by: str | None) -> str:
        return self.by if by is None else by

    def _say(self, name: str, word: str, lasts_ms: int, weight: float, by: str, reason: str) -> None:
        self._write(name, lambda record: self._store.override(record, word, lasts_ms, weight, by, reason))

    def _write(self, name: str, write: Callable[[str], Reply]) -> None:
        for record in names_in_fleet(self._store, name):
            _must_exist(record, write(record))

    def _reset(self, name: str, by: str, reason: str) -> None:
        self._write(name, lambda record: self._store.reset(record, by, reason))

    def _update(self, name: str, fields: dict[str, str], by: str, reason: str) -> None:
        self._write(name, lambda record: self._store.update(record, fields, by=by, reason=reason))


def _must_exist(name: str, reply: Reply) -> None:
    if reply.health is None:
        why = reply.unreadable or "it has no record in Redis: a router that serves it writes one when it is in touch"
        raise RedisRefused(f"provider {name!r}: {why}")
