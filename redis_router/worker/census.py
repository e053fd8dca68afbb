"""Counts the fleet, from time to time and while this worker leads: how many are there, and how many differ."""

import time

from redis_router.errors import RedisRefused
from redis_router.replicas import counts, replicas
from redis_router.runtime.log import log
from redis_router.store.contract import Store
from redis_router.telemetry.metrics import Metrics

COUNT_SECONDS = 30.0
"""Between two counts: each reads every record."""


class Census:
    """One thread uses it."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._count_at = 0.0
        self._was_refused = False
        self._is_shown = False

    def count_if_due(self) -> None:
        """Show the numbers of this moment. Raises RedisUnavailable; where Redis refuses, the log says so once."""
        now = time.monotonic()
        if now < self._count_at:
            return
        self._count_at = now + COUNT_SECONDS
        try:
            there, differ = counts(replicas(self._store))
        except RedisRefused as error:
            if not self._was_refused:
                log.warning("cannot count the fleet's replicas: %s", error)
            self._was_refused = True
            return
        self._metrics.fleet(there, differ)
        self._is_shown = True

    def stand_by(self) -> None:
        """Another worker leads: it shows the numbers, and this one none."""
        if self._is_shown:
            self._metrics.fleet({}, {})
        self._count_at, self._is_shown = 0.0, False
