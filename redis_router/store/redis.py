"""One method per Lua script: the order of KEYS and ARGV.

With `connect.py` the only module that knows redis-py. Every method raises RedisUnavailable or RedisRefused.
"""

import hashlib
import json
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, groupby
from operator import itemgetter
from typing import Any, Literal

from redis_router.checks import NO_PROBE
from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.outcome import Outcome
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RedisRefused, RouterError
from redis_router.probe import Probe
from redis_router.provider import Provider
from redis_router.store import messages, scripts
from redis_router.store.connect import REDIS_ERRORS, Client, NoScript, subscriber, time_out_of, translated, where
from redis_router.store.contract import Batch, Snapshot
from redis_router.store.keys import Keys
from redis_router.store.messages import Event, Leader, Reply, Spec, text

_KIND = itemgetter(1, 3, 4, 5)  # a result's outcome, generation, permit and reason
_LATENCY, _COOLDOWN = 2, 7
_RAW = {"NEVER_DECODE": True}
"""Bytes, whatever the client was told: `messages` reads them, and no byte of anybody's can make redis-py raise."""


class RedisStore:
    """The shared state of one namespace. `writer` names this process to people; `session` is this object's alone.

    Sequence numbers and permits go by the session, so a process that starts again under its old name starts afresh.
    """

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
        self._asked_at: dict[int, float] = {}

    def waits_for(self, thread: int | None) -> float:
        """Seconds for which the command that this thread sent has been on its way; 0 where there is none."""
        asked_at = self._asked_at.get(thread or 0)
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    is_shared = True
    has_workers = True

    @property
    def time_out(self) -> float | None:
        return time_out_of(self.client)

    @property
    def where(self) -> str:
        return f"Redis at {where(self.client)}"

    # Registration

    def register(self, provider: Provider, config: CircuitConfig, circuit_version: int = 0) -> Reply:
        """Join the provider's record ('joined'), or write one where there is none ('created').

        'updated' where the record had settings of a lower version and has these now; 'declined' where it keeps its
        own, and nobody in the fleet has said so yet. A provider without a probe leaves the fleet's as it is;
        `NO_PROBE` takes it away.
        """
        old = self._spec(provider.name) or Spec()
        # the spec first: who hears of a new record looks for it there
        self._write_spec(provider, old.probe if provider.probe is None else provider.probe)
        fields = {
            "generation": str(old.generation + 1),
            "weight": repr(provider.weight),
            "circuit_version": str(circuit_version),
            **config.to_fields(),
        }
        settings = json.dumps({**config.to_fields(), "weight": provider.weight}, sort_keys=True)
        fingerprint = hashlib.sha1(settings.encode(), usedforsecurity=False).hexdigest()[:8]
        return self._register(provider.name, "registered", fingerprint, fields)

    def restore(self, provider: Provider, copy: ProviderHealth) -> Reply:
        """Put a lost record back from this replica's copy ('created'), unless Redis has a newer one ('joined').

        'deregistered', without a record: it is not lost.
        """
        spec = self._spec(provider.name)
        if spec is None:
            self._write_spec(provider, provider.probe)
            self._tell("restored", provider.name)  # a worker that forgot it meanwhile
        elif spec.deregistered:
            return Reply("deregistered", (), None)
        return self._register(provider.name, "restored", "", copy.to_fields())

    def _spec(self, name: str) -> Spec | None:
        said = self._ask("HGET", self.keys.providers, name)
        return None if said is None else messages.spec(name, text(said))

    def _write_spec(self, provider: Provider, probe: str | Probe | None) -> None:
        spec = {
            "models": provider.models,
            "probe": None if probe in (None, NO_PROBE) else probe.to_json() if isinstance(probe, Probe) else probe,
            "provider": provider.whole.name,
        }
        self._ask("HSET", self.keys.providers, provider.name, json.dumps(spec))

    def _tell(self, kind: str, name: str) -> None:
        with self._asking():
            self.client.publish(self.keys.channel, json.dumps({"event": kind, "provider": name, "by": self.writer}))

    def _register(self, name: str, action: str, fingerprint: str, fields: Mapping[str, str]) -> Reply:
        pairs = [part for pair in fields.items() for part in pair]
        keys = [self.keys.health(name), self.keys.events(name)]
        args = [self._now, self.keys.channel, self.writer, action, fingerprint, *pairs]
        return messages.reply(name, self._call("register", keys, args))

    def deregister(self, name: str) -> bool:
        """Take the provider out for the whole fleet; False when there was none."""
        # first, for nobody must restore the record; and above a transition that comes in between
        tombstone = {"deregistered": True, "generation": self._generation(name) + 2, "at_ms": self.leader()[0]}
        self._ask("HSET", self.keys.providers, name, json.dumps(tombstone))
        keys = [getattr(self.keys, key)(name) for key in ("health", "permits", "events", "reporters")]
        return messages.reply(name, self._call("deregister", keys, [self.keys.channel, self.writer])).status == "ok"

    def _generation(self, name: str) -> int:
        """A record's generation; 0 where there is none that can be read: to take it out is how such a one is mended."""
        try:
            said = text(self._ask("HGET", self.keys.health(name), "generation"))
        except RedisRefused:
            return 0
        return int(said) if said.isdecimal() and len(said) < 16 else 0

    def seen(self, names: Iterable[str], now_ms: int) -> None:
        """Say that a replica serves these providers at this moment of Redis's clock."""
        with self._asking():
            self.client.hset(self.keys.seen, mapping=dict.fromkeys(names, now_ms))

    def specs(self) -> dict[str, Spec]:
        """What `rr:providers` says, by the names of records; those that were deregistered, too."""
        return self._specs()[0]

    def _specs(self) -> tuple[dict[str, Spec], dict[str, RedisRefused]]:
        """And why an entry cannot be used."""
        specs: dict[str, Spec] = {}
        refused: dict[str, RedisRefused] = {}
        for name, said in messages.pairs(self._ask("HGETALL", self.keys.providers)).items():
            try:
                specs[messages.name(name)] = messages.spec(name, said)
            except RedisRefused as error:
                refused[repr(name[:64])] = error
        return specs, refused

    # Outcomes and permits

    def record(self, batches: Sequence[Batch]) -> list[Reply | RouterError]:
        """Send batches, one per provider, in one round trip; an error in place of a reply concerns that batch alone."""
        script = scripts.load("record")
        with self._asking():
            pipe = self.client.pipeline(transaction=False)
            for batch in batches:
                pipe.execute_command("EVALSHA", script.sha, *self._record_args(batch), **_RAW)
            replies = pipe.execute(raise_on_error=False)
        return [self._record_reply(batch, raw) for batch, raw in zip(batches, replies, strict=True)]

    def _record_args(self, batch: Batch) -> list[Any]:
        name = batch.provider
        args: list[Any] = [
            5,
            self.keys.health(name),
            self.keys.permits(name),
            self.keys.seq(name, self.session),
            self.keys.events(name),
            self.keys.reporters(name),
        ]
        args += [
            self._now,
            self.keys.channel,
            self.writer,
            batch.seq,
            self.push_interval_ms,
            self.jitter(),
            self.session,
        ]
        for (outcome, generation, permit, reason), run in groupby(batch.results, key=_KIND):
            number = _COOLDOWN if outcome is Outcome.RATE_LIMITED else _LATENCY
            # nine digits are finer than any clock, and cost a third of all seventeen
            numbers = tuple([result[number] for result in run])
            kind = f"{outcome.value}:{reason}" if reason else outcome.value
            args += (kind, generation, permit, "%.9g " * len(numbers) % numbers)
        return args

    def _record_reply(self, batch: Batch, raw: Any) -> Reply | RouterError:
        try:
            if isinstance(raw, NoScript):  # EVAL caches the script on the node that lacked it
                raw = self._ask("EVAL", scripts.load("record").text, *self._record_args(batch))
            if isinstance(raw, Exception):
                return translated(raw)
            return messages.reply(batch.provider, raw)
        except RouterError as error:
            return error

    def claim(self, name: str, tokens: Sequence[str], ttl_ms: int) -> tuple[int, list[str]]:
        """Claim half-open permits, or renew held ones: the record's generation and the tokens held now."""
        keys = [self.keys.health(name), self.keys.permits(name)]
        said = self._call("claim", keys, [self._now, ttl_ms, *tokens])
        with messages.reading(f"what Redis answered to a claim for {name!r}", messages.NOT_OURS):
            generation, *held = map(text, said)
            return int(generation), held

    # Transitions and settings

    def half_open(self, name: str, epoch: int = 0) -> Reply:
        """Move an open circuit to half-open if it is due. `epoch` 0: a replica, because no worker leads.

        Called again after an error it goes under the same number, and tells what the first call did.
        """
        seq = self._half_open_seq.get(name) or self._half_open_seq.setdefault(name, next(self._numbers))
        # a sequence of its own: a batch that waits for its retry must not be overtaken by this number
        keys = [self.keys.health(name), self.keys.seq(name, f"{self.session}:half_open"), self.keys.events(name)]
        reply = messages.reply(
            name, self._call("half_open", keys, [self._now, self.keys.channel, self.writer, seq, epoch])
        )
        del self._half_open_seq[name]
        return reply

    def update(
        self, name: str, fields: Mapping[str, str], source: Literal["operator", "probe"] = "operator", epoch: int = 0
    ) -> Reply:
        """Change settings of a record: `available`, `weight`, thresholds."""
        pairs = [part for pair in fields.items() for part in pair]
        keys = [self.keys.health(name), self.keys.events(name)]
        return messages.reply(
            name, self._call("update", keys, [self._now, self.keys.channel, self.writer, epoch, source, *pairs])
        )

    # Election

    def campaign(self, lease_ms: int, seen: int = 0) -> tuple[str, Leader]:
        """'elected', 'renewed' or 'standby', and who leads now; a new term's epoch is above `seen`."""
        args = [self._now, self.keys.channel, self.writer, self.session, lease_ms, seen]
        said = self._call("campaign", [self.keys.leader], args)
        with messages.reading("what Redis answered to a campaign", messages.NOT_OURS):
            status, *leader = said
            return text(status), messages.leader(leader)

    def resign(self, epoch: int) -> bool:
        """Give the lease back; False when this worker no longer held it."""
        return text(self._call("resign", [self.keys.leader], [self._now, self.keys.channel, self.writer, epoch])) == "1"

    # Reading

    def leader(self) -> tuple[int, Leader | None]:
        """Redis's clock in ms, and who leads; None where nobody ever did."""
        said = self._call("leader", [self.keys.leader], [self._now])
        with messages.reading("what Redis answered about its clock and leader", messages.NOT_OURS):
            now_ms, *leader = said
            return int(now_ms), messages.leader(leader) if leader[0] else None

    def snapshot(self, names: Iterable[str] | None = None) -> Snapshot:
        """The records of `names`, or of every registered provider."""
        now_ms, leader = self.leader()
        said, unreadable = self._specs()
        specs = {name: spec for name, spec in said.items() if not spec.deregistered}
        gone = {name: spec.at_ms for name, spec in said.items() if spec.deregistered}
        wanted = list(specs if names is None else names)
        with self._asking():
            pipe = self.client.pipeline(transaction=False)
            for name in wanted:
                pipe.execute_command("HGETALL", self.keys.health(name), **_RAW)
            hashes = pipe.execute(raise_on_error=False) if wanted else []
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
        """Those of these providers that have no record, or no entry in `rr:providers`."""
        with self._asking():
            pipe = self.client.pipeline(transaction=False)
            pipe.execute_command("HMGET", self.keys.providers, *names, **_RAW)
            for name in names:
                pipe.execute_command("HGET", self.keys.health(name), "circuit_state", **_RAW)
            specs, *states = pipe.execute(raise_on_error=False)
        specs = specs if isinstance(specs, list) else names  # refused: a snapshot says why
        return [name for name, *said in zip(names, specs, states, strict=True) if None in said]

    def last_seen(self) -> dict[str, int]:
        """When a replica that serves it said so last, by provider; ms since the epoch."""
        said = messages.pairs(self._ask("HGETALL", self.keys.seen))
        return {name: int(at) for name, at in said.items() if at.isdecimal() and len(at) < 16}

    def last_event_ms(self, name: str) -> int:
        """When the last entry came into a provider's log, ms since the epoch; 0 where there is none."""
        with self._asking():
            last = self.client.xrevrange(self.keys.events(name), count=1)
        return int(text(last[0][0]).partition("-")[0]) if last else 0

    def scan(self) -> Iterator[str]:
        """All keys that begin with the namespace, those of a longer one too; on every node of a cluster."""
        with self._asking():
            for key in self.client.scan_iter(match=f"{self.keys.namespace}:*", count=1000):
                yield text(key)

    def forget(self, name: str) -> None:
        """Drop what `rr:providers` and `rr:seen` say of a provider."""
        with self._asking():
            self.client.hdel(self.keys.providers, name)
            self.client.hdel(self.keys.seen, name)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete keys, one by one: in a cluster they lie on different nodes."""
        with self._asking():
            for key in keys:
                self.client.delete(key)

    def subscribe(self) -> "Subscription":
        """Begin to listen; the first message says that the subscription stands."""
        with self._asking():
            pubsub = subscriber(self.client)
            pubsub.subscribe(self.keys.channel)
        return Subscription(pubsub)

    # Calls

    @property
    def _now(self) -> str | int:
        return "" if self.now_ms is None else self.now_ms

    def _call(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        script = scripts.load(name)
        try:
            return self._ask("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScript:  # EVAL caches the script on the node that lacked it
            return self._ask("EVAL", script.text, len(keys), *keys, *args)

    def _ask(self, *command: Any) -> Any:
        """One command, its answer in bytes."""
        with self._asking():
            return self.client.execute_command(*command, **_RAW)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        thread = threading.get_ident()
        self._asked_at[thread] = time.monotonic()
        try:
            with _translating():
                yield
        finally:
            self._asked_at.pop(thread, None)


class Subscription:
    """The push channel, read by one thread."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub

    def next(self, timeout: float) -> Literal["subscribed", "silence", "alive"] | Event:
        """The next event; "subscribed" after each (re)connect: pushes may be lost; "alive": any other sign of life."""
        with _translating():
            try:
                message = self._pubsub.get_message(timeout=timeout)
            except UnicodeError:  # the user's client decodes, and somebody published what is no text
                return "alive"
        if message is None:
            return "silence"
        if message["type"] == "subscribe":
            return "subscribed"
        if message["type"] != "message":
            return "alive"
        return messages.event(message["data"]) or "alive"

    def ping(self) -> None:
        """Ask for a sign of life: a hung server never breaks a connection that only listens."""
        with _translating():
            self._pubsub.ping()

    def close(self) -> None:
        """Hang up, whatever state the connection is in."""
        try:
            self._pubsub.close()
        except REDIS_ERRORS:
            return


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except NoScript:  # the caller knows what to do
        raise
    except REDIS_ERRORS as error:
        raise translated(error) from error
