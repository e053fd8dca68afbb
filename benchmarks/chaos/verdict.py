"""Reads what the processes wrote and what Redis kept, and says which promises were broken."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median
from typing import Any

from benchmarks.chaos import truth

Line = dict[str, Any]

LEGAL = {("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed")}
LOSES_WRITES = {"server_killed", "server_frozen_long", "failover", "flushed"}
DISTURBS_PERMITS = {*LOSES_WRITES, "server_frozen", "connections_cut"}
SLACK = 0.05
"""Seconds between a line in a journal and what it tells of."""


def broken(
    lines: list[Line],
    ledgers: list[list[str]],
    streams: list[tuple[str, list[Line]]],
    truth_in_redis: dict[str, list[Any]],
) -> dict[str, list[str]]:
    """The promises, each with a sentence for every time it was not kept."""
    return {
        "no exception reaches a caller or ends in a log": _errors(lines),
        "no outcome is applied twice": _applied_twice(ledgers),
        "what was acknowledged is there": _acknowledged_and_gone(lines, ledgers),
        "every outcome is applied or counted as dropped": _accounts(lines),
        "transitions are legal, one for each generation": _transitions(streams),
        "late results move no circuit": _unexplained(lines, streams),
        "trial calls stay within the limit": _too_many_trials(lines),
        "after quiet every view equals Redis": _views(lines, truth_in_redis),
    }


def _loses_writes(fault: Line) -> bool:
    return fault["kind"] in LOSES_WRITES or bool(fault["failed_over"])


def _of(lines: Iterable[Line], *whats: str) -> list[Line]:
    return [line for line in lines if line["what"] in whats]


def _errors(lines: list[Line]) -> list[str]:
    return [f"an error in {line['replica']}: {line['text'][-2000:]}" for line in _of(lines, "error")]


def _applied_twice(ledgers: list[list[str]]) -> list[str]:
    found = []
    for ledger in ledgers:
        seen: set[tuple[str, str]] = set()
        for entry in ledger:
            seq, _, key = entry.split(" ")
            if (key, seq) in seen:
                found.append(f"batch {seq} of {key} was applied twice")
            seen.add((key, seq))
    return found


def _acknowledged_and_gone(lines: list[Line], ledgers: list[list[str]]) -> list[str]:
    """What was sent after the last fault that may lose writes, and acknowledged, must be in Redis's ledger."""
    last = max((line["until"] for line in _of(lines, "fault") if _loses_writes(line)), default=0.0)
    kept = {(key, int(seq)): int(n) for ledger in ledgers for seq, n, key in (entry.split(" ") for entry in ledger)}
    return [
        f"batch {line['seq']} of {line['key']} was acknowledged with {line['n']} outcomes, Redis has"
        f" {kept.get((line['key'], line['seq']))}"
        for line in _of(lines, "applied")
        if line["sent"] > last and kept.get((line["key"], line["seq"])) != line["n"]
    ]


def _accounts(lines: list[Line]) -> list[str]:
    """Of each replica that lived to the end: recorded = applied + dropped, and nothing waits any more."""
    found = []
    for line in _of(lines, "report"):
        applied, dropped = accounts(line)
        if not line["flushed"]:
            found.append(f"{line['replica']} could not flush after the end")
        if line["recorded"] != applied + dropped:
            found.append(f"{line['replica']} recorded {line['recorded']}, applied {applied:g}, dropped {dropped:g}")
    return found


def accounts(report: Line) -> tuple[float, float]:
    """Applied and dropped, as one replica counted them."""
    counts = report["counts"]
    dropped = sum(counts.get(reason, 0.0) for reason in ("buffer_full", "expired", "closed", "refused", "deregistered"))
    return counts.get("redis_router_requests_total", 0.0), dropped


def _transitions(streams: list[tuple[str, list[Line]]]) -> list[str]:
    """In each stream: only legal steps, each from the state before, one for each generation."""
    found = []
    for provider, stream in streams:
        state = generation = None
        for entry in stream:
            if entry["event"] in ("registered", "restored"):
                state = generation = None  # another replica's copy: the count goes on from there
            if entry["event"] != "transition":
                continue
            step = (entry["from"], entry["to"])
            if step not in LEGAL or (state is not None and step[0] != state):
                found.append(f"{provider}: an illegal transition {step} after {state}")
            if generation is not None and int(entry["generation"]) != generation + 1:
                found.append(f"{provider}: generation {entry['generation']} after {generation}")
            state, generation = step[1], int(entry["generation"])
    return found


def _unexplained(lines: list[Line], streams: list[tuple[str, list[Line]]]) -> list[str]:
    """A half-open circuit opens after a failed trial call of its generation, and closes after enough that went well."""
    went: dict[tuple[str, int, bool], int] = defaultdict(int)
    for line in _of(lines, "tried"):
        if "|" in line["permit"]:
            continue  # a trial of a replica alone: its generations are not the fleet's
        went[line["provider"], line["generation"], line["ok"]] += 1
    restored = {p for p, stream in streams if any(e["event"] == "restored" for e in stream)}
    found = []
    for provider, stream in streams:
        for entry in stream:
            if entry["event"] != "transition" or entry["from"] != "half_open":
                continue
            trial = int(entry["generation"]) - 1
            if entry["to"] == "open" and not went[provider, trial, False]:
                found.append(f"{provider} opened again in generation {trial + 1} though no trial call of it failed")
            needed = 1 if provider in restored else truth.SUCCESSES
            if entry["to"] == "closed" and went[provider, trial, True] < needed:
                found.append(f"{provider} closed in generation {trial + 1} without {needed} trial calls that went well")
    return found


def _too_many_trials(lines: list[Line]) -> list[str]:
    """Never more fleet-wide trial calls in flight than the limit; a dead or frozen replica's count until its ttl."""
    disturbed = [(line["t"], line["until"]) for line in _of(lines, "fault") if line["kind"] in DISTURBS_PERMITS]
    stopped: dict[str, list[float]] = defaultdict(list)
    for line in _of(lines, "fault"):
        if "victim" in line:
            stopped[line["victim"]].append(line["t"])
    ends = {line["permit"]: line["t"] for line in _of(lines, "tried")}
    edges: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for line in _of(lines, "trial"):
        if "|" in line["permit"]:
            continue  # given out by the replica to itself, while it was alone
        began = line["t"]
        over = ends.get(line["permit"], float("inf"))
        if any(start <= began <= until + truth.PERMIT_TTL for start, until in disturbed):
            continue  # Redis may have forgotten permits; they run out by then
        over = min([over, *(start for start, _ in disturbed if start > began)])
        over = min([over, *(t + truth.PERMIT_TTL - 0.2 for t in stopped[line["replica"]] if t + SLACK > began)])
        if over > began:
            edges[line["provider"]] += [(began, 1), (over, -1)]
    found = []
    for provider, moments in edges.items():
        now = 0
        for moment, step in sorted(moments):
            now += step
            if now > truth.LIMIT:
                found.append(f"{provider}: {now} trial calls at once at {moment:.3f}, the limit is {truth.LIMIT}")
    return found


def _views(lines: list[Line], truth_in_redis: dict[str, list[Any]]) -> list[str]:
    return [
        f"{line['replica']} sees {line['view']}, Redis has {truth_in_redis}"
        for line in _of(lines, "report")
        if line["view"] != truth_in_redis or not line["up"]
    ]


def figures(lines: list[Line]) -> list[tuple[str, str]]:
    """What the run measured."""
    faults = _of(lines, "fault")
    kinds: dict[str, int] = defaultdict(int)
    for line in faults:
        kinds[line["kind"]] += 1
    reports = _of(lines, "report")
    recorded = sum(line["recorded"] for line in reports)
    applied = sum(accounts(line)[0] for line in reports)
    dropped: dict[str, float] = defaultdict(float)
    for line in reports:
        for reason in ("buffer_full", "expired", "refused"):
            dropped[reason] += line["counts"].get(reason, 0.0)
    selects = [line["selects"] for line in reports]
    saw = [line for line in _of(lines, "saw") if not line["alone"]]
    alone = [line for line in _of(lines, "saw") if line["alone"]]
    noticed, rejoined = _outages(lines, faults)
    return [
        ("faults injected", f"{len(faults)}: " + ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))),
        ("select, median / p99 / p99.9", " / ".join(_us(median(s[q] for s in selects)) for q in (1, 2, 3))),
        ("time to notice that the master is gone", _spread(noticed)),
        ("time to rejoin once a master serves", _spread(rejoined)),
        ("outcomes recorded by replicas that lived", f"{recorded}"),
        ("  applied", f"{applied:g}"),
        ("  dropped and counted", ", ".join(f"{reason} {n:g}" for reason, n in dropped.items())),
        ("requests that nobody could take", f"{sum(line['refusals'] for line in reports)}"),
        ("transitions seen, of the fleet / alone", f"{len(saw)} / {len(alone)}"),
        ("trial calls", f"{len(_of(lines, 'trial'))}"),
    ]


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"


def _outages(lines: list[Line], faults: list[Line]) -> tuple[list[float], list[float]]:
    """For each fault that took the master away, and each replica: seconds to notice; to rejoin once it was served."""
    edges: dict[str, list[Line]] = defaultdict(list)
    for line in sorted(_of(lines, "edge"), key=lambda line: line["t"]):
        edges[line["replica"]].append(line)
    noticed, rejoined = [], []
    for fault in faults:
        if "served" not in fault:
            continue
        for mine in edges.values():
            down = next((e["t"] for e in mine if not e["up"] and fault["t"] <= e["t"] < fault["until"]), None)
            if down is None:
                continue
            noticed.append(down - fault["t"])
            up = next((e["t"] for e in mine if e["up"] and e["t"] > down), None)
            if up is not None:
                rejoined.append(max(0.0, up - fault["served"]))
    return noticed, rejoined


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "no such fault"
    return f"median {median(seconds):.2f} s, most {max(seconds):.2f} s ({len(seconds)} times)"
