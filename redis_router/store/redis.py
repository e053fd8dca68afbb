"""One method per Lua script: the order of KEYS and ARGV.

Every method raises RedisUnavailable or RedisRefused.
"""

import json
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Literal

from redis_router.checks import NO_PROBE
from redis_router.circuit.config import CircuitConfig, fingerprint
from redis_router.circuit.overrides import observed
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RedisRefused, RouterError
from redis_router.probe import Probe
from redis_router.provider import Provider
from redis_router.store import messages, scripts, wire
from redis_router.store.commands import Commands, RedisSubscription
from redis_router.store.connect import Client, NoScript, time_out_of, translated, where
from redis_router.store.contract import Batch, Snapshot
from redis_router.store.keys import Keys
from redis_router.store.messages import Leader, Reply, Spec, Status, text
from redis_router.store.redis_presence import RedisPresence


class RedisStore(RedisPresence):
    """The shared state of one namespace; each method as `contract.Store` has it."""

    def __init__(
        self, client: Client, namespace: str, writer: str, push_interval_ms: int = 500, now_ms: int | None = None
    ) -> None:
        self.client = client
        self.keys = Keys(namespace)
        self.writer = writer
        self.session = f"{writer}.{secrets.token_hex(4)}"
        self.push_interval_ms = push_interval_ms
        self.now_ms = now_ms
        """None for Redis's clock; a test sets its own moment."""
        self.jitter: Callable[[], float] = random.random
        """For how long circuits stay open: scripts have no chance of their own."""
        self._half_open_seq: dict[str, int] = {}  # of calls whose answer may be lost
        self._numbers = count(1)
        self._redis = Commands(client)

    def waits_for(self, thread: int | None) -> float:
        return self._redis.waits_for(thread)

    is_shared = True
    has_workers = True

    @property
    def time_out(self) -> float | None:
        return time_out_of(self.client)

    @property
    def where(self) -> str:
        return f"Redis at {where(self.client)}"

    # Registration

    def register(
        self, provider: Provider, config: CircuitConfig, circuit_version: int = 0, *, observe: bool = False
    ) -> Reply:
        old = self._spec(provider.name) or Spec()
        # the spec first: who hears of a new record looks for it there
        self._write_spec(provider, old.probe if provider.probe is None else provider.probe)
        fields = {
            "generation": str(old.generation + 1),
            "weight": repr(provider.weight),
            "circuit_version": str(circuit_version),
            **config.to_fields(),
        }
        if observe:
            fields |= {name: str(value) for name, value in observed(self.writer).items()}
        return self._register(provider.name, "registered", fingerprint(config, provider.weight), fields)

    def restore(self, provider: Provider, copy: ProviderHealth) -> Reply:
        spec = self._spec(provider.name)
        if spec is None:
            self._write_spec(provider, provider.probe)
            self._tell("restored", provider.name)  # a worker that forgot it meanwhile
        elif spec.deregistered:
            return Reply(Status.DEREGISTERED, (), None)
        return self._register(provider.name, "restored", "", copy.to_fields())

    def _spec(self, name: str) -> Spec | None:
        said = self._redis.ask("HGET", self.keys.providers, name)
        return None if said is None else messages.spec(name, text(said))

    def _write_spec(self, provider: Provider, probe: str | Probe | None) -> None:
        spec = {
            "models": provider.models,
            "probe": None if probe in (None, NO_PROBE) else probe.to_json() if isinstance(probe, Probe) else probe,
            "provider": provider.whole.name,
        }
        self._redis.ask("HSET", self.keys.providers, provider.name, json.dumps(spec))

    def _tell(self, kind: str, name: str) -> None:
        with self._redis.asking():
            self.client.publish(self.keys.channel, json.dumps({"event": kind, "provider": name, "by": self.writer}))

    def _register(self, name: str, action: str, fingerprint: str, fields: Mapping[str, str]) -> Reply:
        pairs = [part for pair in fields.items() for part in pair]
        keys = [self.keys.health(name), self.keys.events(name)]
        args = [self._now, self.keys.channel, self.writer, action, fingerprint, *pairs]
        return messages.reply(name, self._redis.run("register", keys, args))

    def deregister(self, name: str) -> bool:
        # first, for nobody must restore the record; and above a transition that comes in between
        tombstone = {"deregistered": True, "generation": self._generation(name) + 2, "at_ms": self.leader()[0]}
        self._redis.ask("HSET", self.keys.providers, name, json.dumps(tombstone))
        keys = [getattr(self.keys, key)(name) for key in ("health", "permits", "events", "reporters", "in_flight")]
        return (
            messages.reply(name, self._redis.run("deregister", keys, [self.keys.channel, self.writer])).status
            is Status.OK
        )

    def _generation(self, name: str) -> int:
        """A record's generation; 0 where there is none that can be read: to take it out is how such a one is mended."""
        try:
            said = text(self._redis.ask("HGET", self.keys.health(name), "generation"))
        except RedisRefused:
            return 0
        return int(said) if said.isdecimal() and len(said) < 16 else 0

    def seen(self, names: Iterable[str], now_ms: int) -> None:
        with self._redis.asking():
            self.client.hset(self.keys.seen, mapping=dict.fromkeys(names, now_ms))

    def specs(self) -> dict[str, Spec]:
        return self._specs()[0]

    def _specs(self) -> tuple[dict[str, Spec], dict[str, RedisRefused]]:
        """And why an entry cannot be used."""
        specs: dict[str, Spec] = {}
        refused: dict[str, RedisRefused] = {}
        for name, said in messages.pairs(self._redis.ask("HGETALL", self.keys.providers)).items():
            try:
                specs[messages.name(name)] = messages.spec(name, said)
            except RedisRefused as error:
                refused[repr(name[:64])] = error
        return specs, refused

    # Outcomes and permits

    def record(self, batches: Sequence[Batch]) -> list[Reply | RouterError]:
        script = scripts.load("record")
        asked = [self._record_args(batch) for batch in batches]
        replies = self._redis.ask_all([("EVALSHA", script.sha, *args) for args in asked])
        return [self._record_reply(*each) for each in zip(batches, asked, replies, strict=True)]

    def _record_args(self, batch: Batch) -> list[Any]:
        name = batch.provider
        args: list[Any] = [
            6,
            self.keys.health(name),
            self.keys.permits(name),
            self.keys.seq(name, self.session),
            self.keys.events(name),
            self.keys.reporters(name),
            self.keys.in_flight(name),
        ]
        args += [
            self._now,
            self.keys.channel,
            self.writer,
            batch.seq,
            self.push_interval_ms,
            self.jitter(),
            self.session,
            batch.under_way.calls,
            batch.under_way.overdue,
            batch.under_way.answering,
        ]
        args += wire.outcomes(batch.results)
        return args

    def _record_reply(self, batch: Batch, args: Sequence[Any], raw: Any) -> Reply | RouterError:
        try:
            if isinstance(raw, NoScript):  # EVAL caches the script on the node that lacked it
                raw = self._redis.ask("EVAL", scripts.load("record").text, *args)
            if isinstance(raw, Exception):
                return translated(raw)
            return messages.reply(batch.provider, raw)
        except RouterError as error:
            return error

    def claim(self, name: str, tokens: Sequence[str], ttl_ms: int) -> tuple[int, list[str]]:
        keys = [self.keys.health(name), self.keys.permits(name)]
        said = self._redis.run("claim", keys, [self._now, ttl_ms, *tokens])
        with messages.reading(f"what Redis answered to a claim for {name!r}", messages.NOT_OURS):
            generation, *held = map(text, said)
            return int(generation), held

    # Transitions and settings

    def half_open(self, name: str, epoch: int = 0) -> Reply:
        # called again after an error it goes under the same number, and tells what the first call did
        seq = self._half_open_seq.get(name) or self._half_open_seq.setdefault(name, next(self._numbers))
        # a sequence of its own: a batch that waits for its retry must not be overtaken by this number
        keys = [self.keys.health(name), self.keys.seq(name, f"{self.session}:half_open"), self.keys.events(name)]
        reply = messages.reply(
            name, self._redis.run("half_open", keys, [self._now, self.keys.channel, self.writer, seq, epoch])
        )
        del self._half_open_seq[name]
        return reply

    def update(
        self,
        name: str,
        fields: Mapping[str, str],
        source: Literal["operator", "probe"] = "operator",
        epoch: int = 0,
        *,
        by: str = "",
        reason: str = "",
    ) -> Reply:
        pairs = [part for pair in fields.items() for part in pair]
        args = [self._now, self.keys.channel, by or self.writer, epoch, source, reason, *pairs]
        keys = [self.keys.health(name), self.keys.events(name)]
        return messages.reply(name, self._redis.run("update", keys, args))

    def override(self, name: str, word: str, lasts_ms: float, weight: float, by: str, reason: str) -> Reply:
        keys = [self.keys.health(name), self.keys.events(name)]
        args = [self._now, self.keys.channel, by, word, lasts_ms, repr(weight), reason]
        return messages.reply(name, self._redis.run("override", keys, args))

    def reset(self, name: str, by: str, reason: str) -> Reply:
        keys = [self.keys.health(name), self.keys.events(name), self.keys.reporters(name)]
        return messages.reply(name, self._redis.run("reset", keys, [self._now, self.keys.channel, by, reason]))

    # Election

    def campaign(self, lease_ms: int, seen: int = 0) -> tuple[str, Leader]:
        args = [self._now, self.keys.channel, self.writer, self.session, lease_ms, seen]
        said = self._redis.run("campaign", [self.keys.leader], args)
        with messages.reading("what Redis answered to a campaign", messages.NOT_OURS):
            status, *leader = said
            return text(status), messages.leader(leader)

    def resign(self, epoch: int) -> bool:
        return (
            text(self._redis.run("resign", [self.keys.leader], [self._now, self.keys.channel, self.writer, epoch]))
            == "1"
        )

    # Reading

    def leader(self) -> tuple[int, Leader | None]:
        said = self._redis.run("leader", [self.keys.leader], [self._now])
        with messages.reading("what Redis answered about its clock and leader", messages.NOT_OURS):
            now_ms, *leader = said
            return int(now_ms), messages.leader(leader) if leader[0] else None

    def snapshot(self, names: Iterable[str] | None = None) -> Snapshot:
        now_ms, leader = self.leader()
        said, unreadable = self._specs()
        specs = {name: spec for name, spec in said.items() if not spec.deregistered}
        gone = {name: spec.at_ms for name, spec in said.items() if spec.deregistered}
        wanted = list(specs if names is None else names)
        hashes = self._redis.ask_all([("HGETALL", self.keys.health(name)) for name in wanted])
        records = {}
        for name, fields in zip(wanted, hashes, strict=True):
            try:
                if isinstance(fields, Exception):
                    raise translated(fields)
                if fields:
                    records[name] = messages.health(name, fields)
            except RedisRefused as error:
                unreadable[name] = error
        return Snapshot(now_ms, leader, specs, gone, unreadable, records)

    def lost(self, names: Sequence[str]) -> list[str]:
        asked = [("HGET", self.keys.health(name), "circuit_state") for name in names]
        specs, *states = self._redis.ask_all([("HMGET", self.keys.providers, *names), *asked])
        specs = specs if isinstance(specs, list) else names  # refused: a snapshot says why
        return [name for name, *said in zip(names, specs, states, strict=True) if None in said]

    def scan(self) -> Iterator[str]:
        with self._redis.asking():
            for key in self.client.scan_iter(match=f"{self.keys.namespace}:*", count=1000):
                yield text(key)

    def forget(self, name: str) -> None:
        with self._redis.asking():
            self.client.hdel(self.keys.providers, name)
            self.client.hdel(self.keys.seen, name)
            self.client.hdel(self.keys.told, name)

    def delete(self, keys: Iterable[str]) -> None:
        with self._redis.asking():
            for key in keys:
                self.client.delete(key)

    def subscribe(self) -> RedisSubscription:
        return self._redis.subscribe(self.keys.channel)
