"""Who leads the workers: a lease in Redis, trusted only by this process's own monotonic clock.

What it promises: each term has an epoch higher than all before, and a leader stops acting before its lease can end
in Redis. What it does not promise: that at every moment at most one process believes it leads; a process frozen
between a check and a write may write late. That is why every write carries the epoch: the record refuses a lower one.
"""

import random
import time

from redis_router.runtime.log import log
from redis_router.store.messages import Leader
from redis_router.store.redis import Store

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
        self._seen = 0
        self._hurried = 0

    @property
    def is_leader(self) -> bool:
        """May this worker act as the leader now?"""
        return time.monotonic() < self._until

    def campaign(self) -> None:
        """Take the lease if it is free, renew it if it is ours. Raises RedisUnavailable or RedisRefused."""
        sent, led, hurried = time.monotonic(), self.is_leader, self._hurried
        status, leader = self._store.campaign(round(self._lease * 1000), self._seen)
        self.leader = leader
        if status == "standby":
            self.step_down()
            if self._hurried != hurried:
                return  # the leader resigned after it answered us: once more, at once
            self.next_at = time.monotonic() + min(leader.remaining_ms / 1000, self._lease) + random.uniform(0.005, 0.05)
            return
        self.epoch = leader.epoch
        self._until = sent + self._lease * SAFETY
        self.next_at = sent + self._lease / 3
        if not led:
            log.info("worker %s leads, epoch %d", self._store.writer, self.epoch)

    def hurry(self) -> None:
        """The lease was given back: campaign now. Any thread may call it."""
        self._hurried += 1
        self.next_at = 0.0

    def refused(self, epoch: int) -> None:
        """A record holds a higher epoch than ours: give this term up, the next is above it. Raises as `resign`."""
        self._seen = max(self._seen, epoch)
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
