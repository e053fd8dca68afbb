"""A router's life: it starts, may be forked with its process, and is closed."""

import asyncio
import atexit
import os
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from redis_router.checks import check_name
from redis_router.operators import Operators
from redis_router.options import Options
from redis_router.replica.engine import Engine
from redis_router.request.chooser import Chooser
from redis_router.request.classify import Verdicts
from redis_router.request.context import Context
from redis_router.routing.choose import Rules
from redis_router.routing.strategies import best_first
from redis_router.runtime.names import process_name
from redis_router.store.opening import open_store, open_target
from redis_router.telemetry.listeners import TransitionListener
from redis_router.telemetry.metrics import CollectorRegistry, Metrics

if TYPE_CHECKING:
    from redis_router.worker.checker import HealthChecker

_routers: "WeakSet[Lifecycle]" = WeakSet()


@cache
def _follow_forks() -> None:
    """gunicorn's preload, multiprocessing's fork: each child gets a link to the fleet of its own."""

    def after_in_child() -> None:
        for metrics in {id(each): each for each in (router._engine.metrics for router in _routers)}.values():
            metrics.start_anew()
        for router in list(_routers):
            router._after_fork()

    os.register_at_fork(after_in_child=after_in_child)


class Lifecycle:
    """Owns the connection, the engine and what requests work with; and a health checker, where one runs in here."""

    def __init__(
        self,
        redis: Any,
        options: Options,
        verdicts: Verdicts,
        replica: str | None,
        registry: CollectorRegistry | None,
        on_transition: TransitionListener | None,
    ) -> None:
        self.options = options
        self._verdicts = verdicts
        self._named = replica
        self.replica = check_name("replica", replica or process_name())
        self._registry = registry
        self._on_transition = on_transition
        self._target = redis
        self._client = open_target(redis)
        self._owns_client = isinstance(redis, str)
        self._checker: HealthChecker | None = None
        self._starting = threading.RLock()
        self._begin(Metrics.of(registry))
        _follow_forks()
        _routers.add(self)

    def _begin(self, metrics: Metrics) -> None:
        push_interval_ms = round(self.options.push_interval * 1000)
        store = open_store(self._client, self.namespace, self.replica, push_interval_ms)
        self._engine = Engine(store, metrics, self.options, self._on_transition)
        self._view = self._engine.view
        self._operators = Operators(self._engine, self.replica)
        self._rules = Rules(best_first(self.options.strategy), self._engine.now_ms, self.options.least_bad)
        self._chooser = Chooser(self._engine, self._rules)
        self._context = Context(self._engine, self._chooser, self._verdicts, self._rules.monotonic)

    @property
    def namespace(self) -> str:
        """The first part of every Redis key."""
        return self.options.namespace

    def _after_fork(self) -> None:
        """In the child: threads and connections stayed with the parent, and so did what it has still to deliver."""
        parent = self._engine
        self._starting = threading.RLock()
        self._checker = None  # it runs on in the parent
        if self._owns_client:
            self._client = open_target(self._target)
        self.replica = self._named or process_name()
        self._begin(parent.metrics)
        self._engine.take_over(parent)

    def start(self) -> None:
        """Join the fleet and start the background threads; once is enough.

        Returns after the shared records were read, or at once where Redis is away: the router then starts with every
        circuit closed and joins when Redis is back. Raises RedisRefused for a wrong password or missing permission, and
        RouterError after `close()`. A router that is not closed when the interpreter exits is closed then.
        """
        with self._starting:
            self._operators.check_open()
            if not self._engine.running:
                self._engine.start()
                atexit.register(self.close)

    def close(self, timeout: float = 2.0) -> None:
        """Hand back permits, bring what was recorded to Redis, end the threads; within about `timeout` seconds.

        For good: selecting goes on with the last table, so that calls under way can end, and everything that needs
        Redis raises RouterError.
        """
        deadline = time.monotonic() + timeout
        if self._checker is not None:
            self._checker.ask_to_stop()
        self._engine.stop(timeout)
        self.stop_health_checker(max(0.1, deadline - time.monotonic()))
        atexit.unregister(self.close)
        if self._owns_client:
            self._client.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all recorded before is in Redis and in this replica's table; False where `timeout` s ran out."""
        return self._engine.flush(timeout)

    @property
    def redis_up(self) -> bool:
        """Is this replica in touch with Redis?"""
        return self._engine.link.up

    def start_health_checker(self, interval: float = 10.0, *, lease: float = 15.0) -> None:
        """Run the worker inside this replica, in the same election as every other; once is enough."""
        from redis_router.worker.checker import HealthChecker

        with self._starting:
            self._operators.check_open()
            if self._checker is None:
                checker = HealthChecker(self._client, self.namespace, interval, lease, registry=self._registry)
                checker.start()
                self._checker = checker

    def stop_health_checker(self, timeout: float = 2.0) -> None:
        """End the worker inside this replica, within about `timeout` seconds; a lease it holds is free at once."""
        with self._starting:
            checker, self._checker = self._checker, None
        if checker is not None:
            checker.stop(timeout)
