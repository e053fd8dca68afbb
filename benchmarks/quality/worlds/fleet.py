"""This library's fleet in a random world, on a memory store or on a real server."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.quality.fleet import MODEL, PUSH, Fleet, OurRequest, Replica
from benchmarks.quality.worlds.ground import Ground
from benchmarks.quality.worlds.shape import Shape
from redis_router import CircuitConfig, CircuitState, ProviderHealth
from redis_router import Provider as Registered
from redis_router.options import Options
from redis_router.request.context import Context
from redis_router.request.deadline import Deadline
from redis_router.routing.strategies import Strategy, resolve
from redis_router.store.connect import connect
from redis_router.store.memory import MemoryStore
from redis_router.store.memory_records import Memory
from redis_router.store.messages import Reply

PUSH_INTERVAL_MS = round(Options().push_interval * 1000)


class WorldRequest(OurRequest):
    """With the world's deadline or time-outs, and answers that come in streams."""

    def __init__(self, context: Context, ground: Ground) -> None:
        shape = ground.shape
        if shape.deadline is not None:
            deadline = Deadline(shape.deadline, None, None, context.now)
        elif shape.stream:
            deadline = Deadline(None, None, shape.timeout, context.now)
        else:
            deadline = Deadline(None, shape.timeout, None, context.now)
        super().__init__(context, deadline)

    @property
    def timeout(self) -> float:
        assert self._attempt is not None
        assert self._attempt.timeout is not None
        return self._attempt.timeout

    def first_token(self) -> None:
        assert self._attempt is not None
        self._attempt.first_token()


class WorldFleet(Fleet):
    """The same on both stores: `url` '' for memory."""

    def __init__(self, ground: Ground, url: str, strategy: Callable[[], Strategy], config: CircuitConfig) -> None:
        self._ground = ground
        self._config = config
        super().__init__(ground, url, strategy, config)  # type: ignore[arg-type]  # it has what a run has

    def _open(self, url: str) -> None:
        self._memory = None if url else Memory()
        self._jitter = random.Random(f"{self._ground.seed} jitter")
        self._namespace = "world"
        if self._memory is None:
            self._client = connect(url)
            self._namespace = f"w{random.SystemRandom().randrange(1 << 48):x}"

    def new_store(self, writer: str) -> Any:
        state = random.getstate()  # a session's name is drawn from the stream of the strategies, on one store only
        try:
            return self._new_store(writer)
        finally:
            random.setstate(state)

    def _new_store(self, writer: str) -> Any:
        if self._memory is None:
            store: Any = super().new_store(writer)
        else:
            store = MemoryStore(self._memory, self._namespace, writer, PUSH_INTERVAL_MS)
            store.now_ms = self.now_ms()
        store.jitter = self._jitter.random
        return store

    def _was_pushed(self, name: str) -> bool:
        if self._memory is None:
            return super()._was_pushed(name)
        return self._memory.namespaces[self._namespace].entries[name].pushed_ms == self.now_ms()

    # What a world asks of a player

    def begin(self, number: int) -> WorldRequest:
        return WorldRequest(self._replicas[number].context, self._ground)

    def restart(self, number: int | None = None) -> None:
        """One replica, or all."""
        self._worker.now_ms = self.now_ms()
        if number is None:
            super().restart()
        else:
            self._replicas[number] = self._started(number, self._worker.snapshot().records)

    def add(self, name: str) -> None:
        self._worker.now_ms = self.now_ms()
        self._worker.register(Registered(name, (MODEL,)), self._config)
        records = self._worker.snapshot().records
        parts = [Registered(each, (MODEL,)) for each in self._ground.providers]
        for replica in self._replicas:
            shown = {each: replica.alone.shown(health) for each, health in (records | replica.records).items()}
            replica.view.table = replica.tables.build(parts, shown, replica.view.table)
            self._show(replica, records[name])

    def drain(self, name: str) -> None:
        self._worker.now_ms = self.now_ms()
        reply = self._worker.update(name, {"available": "0"}, "operator")
        assert isinstance(reply, Reply)
        assert reply.health is not None
        for each in self._replicas:
            self._world.after(PUSH, partial(self._show, each, reply.health))

    def close(self) -> None:
        if self._memory is None:
            self._client.close()

    def states(self) -> dict[str, str]:
        self._worker.now_ms = now = self.now_ms()
        found = {}
        for name, health in self._worker.snapshot().records.items():
            state = "" if health.circuit_state is CircuitState.CLOSED else health.circuit_state.value
            cooling = "cooling" if health.cooling_for_ms(now) else ""
            found[name] = "drained" if health.is_drained else state or cooling
        return found


class ToldFleet(WorldFleet):
    """The same, but told how quick each provider is at this moment and how many calls it takes: it learns nothing.

    What is left between it and the oracle is what travels late: calls in flight, failures, and when an incident began.
    """

    def _show(self, replica: Replica, health: ProviderHealth) -> None:
        live = self._ground.all[health.name]
        mean = live.site.mean * live.slowdown(None) * 1000
        told = replace(
            health,
            samples=63,
            usual_latency_ms=mean,
            floor_latency_ms=mean,
            latency_deviation_ms=mean * min(1.0, 0.8 * live.site.sigma),
            concurrency_limit=float(live.slots),
            call_ms=mean + 1000 * self._ground.shape.stream_mean,
        )
        super()._show(replica, told)


def ours(
    strategy: str, config: Callable[[Shape], CircuitConfig], url: str = "", fleet: type[WorldFleet] = WorldFleet
) -> Callable[[Ground], WorldFleet]:
    """A player of ours, for `Ground.play`; `config` gives the thresholds for a world."""
    return lambda ground: fleet(ground, url, partial(resolve, strategy), config(ground.shape))
