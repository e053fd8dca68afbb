"""Who leads the workers: a lease in Redis, trusted only by this process's own monotonic clock.

What it promises: each term has an epoch higher than all before, and a leader stops acting before its lease can end
in Redis. What it does not promise: that at every moment at most one process believes it leads; a process frozen
between a check and a write may write late. That is why every write carries the epoch: the record refuses a lower one.
"""

import random
import time

from redis_router.runtime.log import log
from redis_router.store.contract import Store
from redis_router.store.messages import Leader

SAFETY = 0.9
"""The share of the lease that a leader uses: the rest covers clocks that run at different speeds."""


class Election:
    """One worker's part in the election. One thread uses it; `is_leader` and `leader` may be read by any."""

    def __init__(self, store: Store, lease: float) -> None:
        self.epoch = 0
        self.leader: Leader | None = None
        self.next_at = 0.0
        """Monotonic moment of the next campaign: a third into the lease for a leader, its end for a standby."""
        self._store = store
        self._lease = lease
        self._until = 0.0
        self._newest = 0
        """The newest epoch that a record was written under, as far as this worker was told."""

    @property
    def is_leader(self) -> bool:
        """May this worker act as the leader now?"""
        return time.monotonic() < self._until

    def campaign(self) -> None:
        """Take the lease if it is free, renew it if it is ours. Raises RedisUnavailable or RedisRefused."""
        sent, led = time.monotonic(), self.is_leader
        status, self.leader = self._store.campaign(round(self._lease * 1000), self._newest)
        if status == "standby":
            self.step_down()
            lasts = min(self.leader.remaining_ms / 1000, self._lease)
            self.next_at = time.monotonic() + lasts + random.uniform(0.005, 0.05)
            return
        self.epoch = self.leader.epoch
        self._until = sent + self._lease * SAFETY
        self.next_at = sent + self._lease / 3
        if not led:
            log.info("worker %s leads, epoch %d", self._store.writer, self.epoch)

    def outranked(self, epoch: int) -> None:
        """A record holds a higher epoch than ours: give this term up, the next is above it. Raises as `resign`."""
        log.warning("a write of epoch %d was refused: a newer leader is at work", self.epoch)
        self._newest = max(self._newest, epoch)
        self.next_at = 0.0
        self.resign()

    def step_down(self) -> None:
        """Stop acting as the leader; Redis is not told."""
        if self._until:
            log.info("worker %s leads no more", self._store.writer)
        self._until = 0.0

    def resign(self) -> None:
        """Step down and free the lease at once. Raises RedisUnavailable or RedisRefused."""
        if self._until:
            self.step_down()
            self._store.resign(self.epoch)
