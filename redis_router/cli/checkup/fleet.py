"""Checks of what the library keeps in Redis: the lease, the circuits, the records, the keys."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from redis_router.circuit.config import fingerprint
from redis_router.circuit.overrides import FOR_EVER_MS, override_of
from redis_router.circuit.record import CircuitState, NewerSchema, TakenOutBy
from redis_router.cli.checkup.finding import ERROR, OK, WARNING, Patient, Said
from redis_router.cli.purge import OURS, leftovers
from redis_router.operate import fleet
from redis_router.operate.words import lasted
from redis_router.replicas import ViewState
from redis_router.replicas import replicas as all_replicas

OVERDUE_MS = 10_000
"""Where no worker leads, a replica moves a circuit 5 s after its time."""
UNUSED_MS = 7 * 86_400_000
MANY_SESSIONS = 500
"""Of one provider within an hour."""
MOST_NAMED = 5


def worker(patient: Patient) -> Iterator[Said]:
    """Does one hold the lease?"""
    now_ms, leader = patient.store.leader()
    if leader is None:
        yield Said(WARNING, "no worker ever led here: nobody probes", _start(patient))
    elif leader.remaining_ms <= 0:
        yield Said(
            WARNING,
            f"no worker leads since {lasted(now_ms - leader.until_ms)};"
            f" the last was {leader.worker}, epoch {leader.epoch}",
            _start(patient),
        )
    else:
        yield Said(
            OK,
            f"{leader.worker} leads for {lasted(now_ms - leader.since_ms)}, epoch {leader.epoch};"
            f" its lease ends in {leader.remaining_ms / 1000:.1f} s",
        )


def _start(patient: Patient) -> str:
    return (
        f"start two, on different machines: redis-router worker --namespace {patient.store.keys.namespace} --redis URL"
    )


def circuits(patient: Patient) -> Iterator[Said]:
    """Open ones whose time is over."""
    snapshot = patient.snapshot
    circuits = [health for health in snapshot.records.values() if health.circuit_state is CircuitState.OPEN]
    overdue = [health for health in circuits if health.due_in_ms(snapshot.now_ms) < -OVERDUE_MS]
    for health in sorted(overdue, key=lambda each: each.name):
        found = f"{health.name}: its circuit has been due for {lasted(-health.due_in_ms(snapshot.now_ms))}"
        if health.probe_result in ("", "passes"):
            yield Said(ERROR, f"{found}, and nobody moves it", "start a worker; where one leads, look at its log")
        else:
            yield Said(
                WARNING, f"{found}, and its probe fails: {health.probe_result}", "mend the provider or its probe"
            )
    if not overdue:
        yield Said(OK, f"circuits open: {len(circuits)} of {len(snapshot.records)}, none overdue")


def records(patient: Patient) -> Iterator[Said]:
    """Those that cannot be read, and those that are missing."""
    snapshot, namespace = patient.snapshot, patient.store.keys.namespace
    for name, error in sorted(snapshot.unreadable.items()):
        if isinstance(error.__cause__, NewerSchema):
            yield Said(ERROR, f"{name}: {error.__cause__}", "upgrade redis-llm-router here, in gateways and in workers")
        else:
            yield Said(
                ERROR, f"{name}: {error}", f"put it right, or begin anew: DEL '{patient.store.keys.health(name)}'"
            )
    missing = sorted(snapshot.specs.keys() - snapshot.records.keys() - snapshot.unreadable.keys())
    for name in missing:
        yield Said(
            WARNING,
            f"{name}: registered, and without a record",
            f"start a gateway that serves it, or: redis-router purge --namespace {namespace} --yes",
        )
    if not snapshot.unreadable and not missing:
        advice = "" if snapshot.records else "where there should be some, compare --namespace with the gateways'"
        yield Said(OK, f"providers: {len(snapshot.records)}, each with a record that can be read", advice)


def thresholds(patient: Patient) -> Iterator[Said]:
    """Settings that a replica came with last, and that were not taken."""
    all_of_them = patient.snapshot.records
    declined = [
        name
        for name, health in sorted(all_of_them.items())
        if health.declined_settings and health.declined_settings != fingerprint(health.config, health.weight)
    ]
    if declined:
        yield Said(
            WARNING,
            f"{_names(declined)}: a gateway came with other thresholds or another weight, which were not taken",
            "raise circuit_version in the code, or call set_circuit_config, or make the code say what the record says",
        )
    else:
        yield Said(OK, "no gateway came with other thresholds than those of the records")


def overrides(patient: Patient) -> Iterator[Said]:
    """What operators said, and did not bound: it is forgotten where nobody asks."""
    now_ms, records = patient.snapshot.now_ms, patient.snapshot.records
    for name, health in sorted(records.items()):
        if health.unavailable_reason == TakenOutBy.OPERATOR:
            yield Said(
                WARNING,
                f"{name}: an operator took it out of service, without an end",
                _over(patient, name),
            )
        if override_of(health, now_ms) and health.override_until_ms == FOR_EVER_MS:
            yield _for_ever(patient, name, health.override, health.override_by, health.override_reason)
        if health.weight_override_until_ms == FOR_EVER_MS:
            weight = f"weight {health.weight_override:g}"
            yield _for_ever(patient, name, weight, health.weight_override_by, health.weight_override_reason)
    bounded = [
        until_ms
        for health in records.values()
        for until_ms in (health.override_until_ms, health.weight_override_until_ms)
        if now_ms < until_ms < FOR_EVER_MS
    ]
    yield Said(OK, f"in force for a time: {len(bounded)}")


def _for_ever(patient: Patient, name: str, word: str, by: str, reason: str) -> Said:
    why = f": {reason}" if reason else ""
    return Said(WARNING, f"{name}: {word} for ever, by {by}{why}", _over(patient, name))


def _over(patient: Patient, name: str) -> str:
    return f"where that is over: redis-router ready {name} --namespace {patient.store.keys.namespace}"


def replicas(patient: Patient) -> Iterator[Said]:
    """Those whose view differs, and whether all run one version."""
    found = all_replicas(patient.store)  # with a snapshot of its own: what they knew by then is in it
    for each in found:
        if each.differs:
            view = fleet.view(each, each.seen_ms + each.silent_ms)
            what = f"{each.name}: {fleet.state(each)}, last seen {lasted(each.silent_ms)} ago"
            yield Said(WARNING, f"{what}; {view}" if view else what, _ADVICE[each.state])
    versions = Counter(each.version or "?" for each in found if each.state is not ViewState.SILENT)
    if len(versions) > 1:
        runs = ", ".join(f"{number} run {version}" for version, number in sorted(versions.items()))
        yield Said(WARNING, f"versions are mixed: {runs}", "end the deploy under way, or find out who was left out")
    elif not any(each.differs for each in found):
        yield Said(OK, fleet.summary(found) + "".join(f"; version {version}" for version in versions))


_ADVICE = {
    ViewState.BEHIND: "look at its log and at its CPU; where it stays behind, restart it",
    ViewState.ALONE: "look at its log: Redis refuses a record, or its own calls fail where those of others do not",
    ViewState.SILENT: "see whether it runs, and reaches Redis; where it is gone, its word goes within five minutes",
}


def unused(patient: Patient) -> Iterator[Said]:
    """As `redis-router purge` counts it; tombstones go by themselves."""
    left = [leftover for leftover in leftovers(patient.store, UNUSED_MS) if not leftover.deregistered]
    for leftover in left:
        yield Said(
            WARNING, str(leftover), f"redis-router purge --namespace {patient.store.keys.namespace} --yes removes it"
        )
    if not left:
        yield Said(OK, "no provider is out of use for a week")


def keys(patient: Patient) -> Iterator[Said]:
    """By SCAN, once over all keys of the database."""
    namespace = patient.store.keys.namespace
    ours = re.compile(re.escape(f"{namespace}:") + OURS)
    of_a_longer_namespace = re.compile(re.escape(f"{namespace}:") + r"[A-Za-z0-9._:/@-]+:" + OURS)
    found = list(patient.store.scan())
    foreign = sorted(key for key in found if not ours.fullmatch(key) and not of_a_longer_namespace.fullmatch(key))
    mine = [key for key in found if ours.fullmatch(key)]
    if foreign:
        yield Said(
            WARNING,
            f"{len(foreign)} keys that are none of ours: {_names(foreign)}",
            "find out who writes them, and give them another prefix",
        )
    yield from _growth(namespace, mine)


def _growth(namespace: str, mine: Iterable[str]) -> Iterator[Said]:
    kinds = Counter(match[2] for key in mine if (match := _of_provider(namespace, key)))
    sessions = Counter(match[1] for key in mine if (match := _of_provider(namespace, key)) and match[2] == "seq")
    name, most = max(sessions.items(), key=lambda each: each[1], default=("", 0))
    if most > MANY_SESSIONS:
        yield Said(
            WARNING,
            f"{name}: {most} sessions wrote within an hour",
            "a session is one start of a process: find out which gateways start again and again",
        )
    else:
        yield Said(
            OK, f"records: {kinds['health']}, logs of events: {kinds['events']}, sequence numbers: {kinds['seq']}"
        )


def _of_provider(namespace: str, key: str) -> re.Match[str] | None:
    return re.match(re.escape(f"{namespace}:") + r"\{(.+?)\}:(\w+)", key)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
