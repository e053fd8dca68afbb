"""What `redis-router doctor` looks at: each check is a function here that looks, and says what it found.

`server.py` looks at Redis itself, `fleet.py` at what the library keeps there. A new check is listed in `CHECKS`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from redis_router.cli.checkup import fleet, server
from redis_router.cli.checkup.finding import ERROR, OK, WARNING, Finding, Patient, Said
from redis_router.errors import AccessDenied, RedisRefused, RouterError
from redis_router.store.messages import NOT_OURS

__all__ = ["CHECKS", "ERROR", "OK", "WARNING", "Check", "Finding", "Patient", "examine"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. `look` raises RedisUnavailable or RedisRefused where it cannot."""

    name: str
    title: str
    look: Callable[[Patient], Iterator[Said]]


CHECKS = (
    Check("connection", "Redis answers, quickly, and over a network that may be trusted", server.connection),
    Check("version", "the server is one that the library supports", server.version),
    Check("permissions", "the user may do what the library does", server.permissions),
    Check("eviction", "Redis does not evict the library's keys", server.eviction),
    Check("memory", "Redis has room to write", server.memory),
    Check("clock", "Redis's clock is about that of this machine", server.clock),
    Check("persistence", "Redis saves what it was told to save", server.persistence),
    Check("replication", "this is a master, and it takes writes", server.replication),
    Check("worker", "a worker leads", fleet.worker),
    Check("replicas", "replicas and workers see the circuits alike, and run one version", fleet.replicas),
    Check("circuits", "no open circuit waits for longer than it must", fleet.circuits),
    Check("records", "every record can be read, and every provider has one", fleet.records),
    Check("thresholds", "the code's thresholds are those of the records", fleet.thresholds),
    Check("overrides", "what operators said has an end", fleet.overrides),
    Check("unused", "every provider is served by a replica", fleet.unused),
    Check("keys", "the namespace holds the library's keys only, and not too many", fleet.keys),
)
"""In the order in which they are made. Where the first fails, the others are not made."""


def examine(patient: Patient) -> Iterator[Finding]:
    """What each check found. Raises nothing of Redis's: a check that cannot look says so."""
    for check in CHECKS:
        for said in _looked(check, patient):
            yield Finding(check.name, said.status, said.found, said.advice)
            if check is CHECKS[0] and said.status == ERROR:
                return


def _looked(check: Check, patient: Patient) -> Iterator[Said]:
    try:
        yield from check.look(patient)
    except AccessDenied as error:
        yield Said(
            WARNING,
            f"not allowed to look: {error.__cause__ or error}",
            "look as a user with the rights that docs/operations.md gives the doctor",
        )
    except RedisRefused as error:
        if "unknown command" in str(error):
            yield Said(WARNING, f"cannot look: {error}", "look by the means of whoever runs this server")
        else:
            yield Said(ERROR, f"cannot look: {error}", "put right what it names, or delete that key")
    except RouterError as error:
        yield Said(ERROR, f"no answer: {error}", "bring Redis back, and look again")
    except (LookupError, TypeError, ValueError) as error:
        yield Said(WARNING, f"cannot read what the server says: {error!r}", NOT_OURS)
