"""A leader's writes: each on one record, under the epoch of its term; what the script did goes into the mirror."""

from collections.abc import Callable

from redis_router.errors import AccessDenied, RedisRefused, RouterError
from redis_router.replica.mirror import Mirror
from redis_router.runtime.log import log
from redis_router.store.messages import Reply
from redis_router.store.redis import Store
from redis_router.telemetry.metrics import Metrics
from redis_router.worker.election import Election
from redis_router.worker.schedule import Changes


class Writes:
    """Each raises RedisUnavailable, and notes the provider then: it is looked at again when Redis is back."""

    def __init__(self, store: Store, mirror: Mirror, election: Election, metrics: Metrics, changes: Changes) -> None:
        self._store = store
        self._mirror = mirror
        self._election = election
        self._metrics = metrics
        self._changes = changes

    def half_open(self, name: str) -> Reply | None:
        """Move a circuit if it is due; None where that was refused."""
        return self._written(name, lambda: self._store.half_open(name, self._election.epoch))

    def update(self, name: str, fields: dict[str, str]) -> None:
        """What a probe says of a provider."""
        self._written(name, lambda: self._store.update(name, fields, source="probe", epoch=self._election.epoch))

    def forget(self, name: str) -> None:
        """There is no record of it any more: a replica that has a copy restores it. Any thread may call this."""
        self._mirror.forget(name)
        self._metrics.forget(name)
        self._changes.note(name, gone=True)

    def _written(self, name: str, write: Callable[[], Reply]) -> Reply | None:
        """What a write on one record did; None where it was refused, which holds up no other record."""
        try:
            reply = write()
        except AccessDenied:  # no matter of this record
            self._changes.note(name)
            raise
        except RedisRefused as error:
            self._mirror.cannot_use(name, str(error), refused=True)
            return None
        except RouterError:
            self._changes.note(name)
            raise
        self._accept(name, reply)
        return reply

    def _accept(self, name: str, reply: Reply) -> None:
        for change in reply.transitions:
            self._metrics.transition(change)
            log.warning("%s is half_open (%s), was open; moved by %s", name, change.reason, self._store.writer)
        if reply.status == "fenced":
            log.warning("a write of epoch %d was refused: a newer leader is at work", self._election.epoch)
            self._election.refused(reply.health.leader_epoch if reply.health is not None else 0)
        if reply.health is not None:
            self._mirror.apply(reply.health, self._store.writer, accepted=True)
        elif not reply.unreadable:
            self.forget(name)
