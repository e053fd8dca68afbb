"""Reads what the processes wrote and what Redis kept, and says which promises were broken.

A fault may itself lose what was promised: a failover the last writes, a deleted key what was in it. Each such excuse
holds for the keys, the provider and the moments that the fault's own line names; everything else is held to its word.
"""

import re
from collections import defaultdict
from itertools import pairwise
from typing import Any

from benchmarks.chaos import service, truth
from benchmarks.chaos.net import HANG
from benchmarks.chaos.service import Line, of

LEGAL = {("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed")}
LOSES_WRITES = {"server_killed", "server_frozen_long", "failover", "flushed"}
CUTS_OFF = {"server_frozen", "connections_cut", "paused_all", "paused_write", "slow_link", "dns_hangs", "log_raises"}
"""Permits of running calls cannot be renewed for a while."""
SLACK = 0.05
"""Seconds between a line in a journal and what it tells of."""
REPLICATED = 1.0
"""Seconds after which a write is at the follower, too."""
NOTICED = 6.0
"""Seconds after a fault in which a replica may still say what it met: it tries again what was refused after five."""
DUE = 8.0
"""Seconds until an open circuit is tried again, also where the leader died; faults not counted."""


def broken(
    lines: list[Line],
    ledgers: list[list[str]],
    streams: list[tuple[str, list[Line]]],
    truth_in_redis: dict[str, list[Any]],
) -> dict[str, list[str]]:
    """The promises, each with a sentence for every time it was not kept."""
    faults = of(lines, "fault")
    return {
        "no exception reaches a caller or ends in a log": _errors(lines, faults),
        "no outcome is applied twice": _applied_twice(ledgers, faults),
        "what was acknowledged is there": _acknowledged_and_gone(lines, ledgers, faults),
        "every outcome is applied or counted as dropped": _accounts(lines),
        "transitions are legal, one for each generation": _transitions(streams, faults),
        "an open circuit is tried again in time": _overdue(streams, faults),
        "late results move no circuit": _unexplained(lines, streams),
        "trial calls stay within the limit": _too_many_trials(lines, faults),
        "a healthy neighbour is served": service.neighbours(lines, faults),
        "a broken record's provider is served, a drained one is not": service.own_calls(lines, faults),
        "open circuits that Redis lost are back": service.not_back(faults),
        "who is cut off from Redis decides alone": service.undecided(faults),
        "after quiet every view equals Redis": _views(lines, truth_in_redis),
    }


def _loses_writes(fault: Line) -> bool:
    return fault["kind"] in LOSES_WRITES or bool(fault["failed_over"])


def _key(provider: str, kind: str) -> str:
    return f"rr:{{{provider}}}:{kind}"


def _errors(lines: list[Line], faults: list[Line]) -> list[str]:
    found = [f"an error in {line['replica']}: {line['text'][-2000:]}" for line in of(lines, "error")]
    return found + [f"{line['replica']} says: {line['text']}" for line in of(lines, "said") if not _named(line, faults)]


def _named(said: Line, faults: list[Line]) -> bool:
    """Is it the one line that names a record which a fault broke, or a right that a fault took away?"""
    near = [each for each in faults if each["t"] - SLACK < said["t"] < each["until"] + NOTICED]
    if (
        any(each["kind"].startswith("rights_") for each in near)
        and "Redis refused the login or the command" in said["text"]
    ):
        return True
    named = re.match(r"(?:the record of|no trial calls for) provider (\S+?):? ", said["text"])
    return named is not None and any(each.get("provider") == named[1] for each in near)


def _entries(ledger: list[str]) -> list[tuple[str, int, int, float]]:
    """Seq key, number of the batch, outcomes, when."""
    split = (entry.split(" ") for entry in ledger)
    return [(key, int(seq), int(outcomes), float(at)) for seq, outcomes, key, at in split]


def _applied_twice(ledgers: list[list[str]], faults: list[Line]) -> list[str]:
    """Excused where a fault took away, in between, the writer's last number, or the record with what it had counted."""
    forgot: dict[str, list[Line]] = defaultdict(list)
    for each in faults:
        for key in each.get("gone", ()):
            forgot[key].append(each)
    found = []
    for ledger in ledgers:
        seen: dict[tuple[str, int], float] = {}
        for key, seq, _, at in _entries(ledger):
            before = seen.get((key, seq))
            seen[key, seq] = at
            if before is None:
                continue
            between = forgot[key] + forgot[key.partition(":seq:")[0] + ":health"]
            if not any(each["t"] <= at and before <= each["until"] for each in between):
                found.append(f"batch {seq} of {key} was applied twice, at {before:.3f} and {at:.3f}")
    return found


def _acknowledged_and_gone(lines: list[Line], ledgers: list[list[str]], faults: list[Line]) -> list[str]:
    """What was acknowledged must be in Redis's ledger, unless it was sent around a fault that may lose writes."""
    lossy = [(each["t"] - REPLICATED, each["until"]) for each in faults if _loses_writes(each)]
    kept: dict[tuple[str, int], set[int]] = defaultdict(set)
    for ledger in ledgers:
        for key, seq, outcomes, _ in _entries(ledger):
            kept[key, seq].add(outcomes)
    return [
        f"batch {line['seq']} of {line['key']} was acknowledged with {line['n']} outcomes at {line['sent']:.3f}, Redis"
        f" has {kept.get((line['key'], line['seq']), 'none')}"
        for line in of(lines, "applied")
        if line["n"] not in kept.get((line["key"], line["seq"]), {0})
        and not any(start < line["sent"] < end for start, end in lossy)
    ]


def _accounts(lines: list[Line]) -> list[str]:
    """Of each replica that lived to the end: recorded = applied + dropped, and nothing waits any more.

    Exact under every fault: what Redis loses later was applied, and the replica counted it.
    """
    found = []
    for line in of(lines, "report"):
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


def _transitions(streams: list[tuple[str, list[Line]]], faults: list[Line]) -> list[str]:
    """In each stream: only legal steps, each from the state before, one for each generation.

    The count begins anew where a record was put back, and where a fault broke it or kept the log from being written.
    """
    found = []
    for provider, stream in streams:
        health, events = _key(provider, "health"), _key(provider, "events")
        cuts = [each for each in faults if {health, events} & {*each.get("gone", ())} or each.get("detail") == "-xadd"]
        state = generation = None
        last = 0.0
        for entry in stream:
            if entry["event"] in ("registered", "restored") or any(
                each["t"] <= entry["at"] and last <= each["until"] for each in cuts
            ):
                state = generation = None  # another replica's copy: the count goes on from there
            last = entry["at"]
            if entry["event"] != "transition":
                continue
            step = (entry["from"], entry["to"])
            if step not in LEGAL or (state is not None and step[0] != state):
                found.append(f"{provider}: an illegal transition {step} after {state} at {last:.3f}")
            if generation is not None and int(entry["generation"]) != generation + 1:
                found.append(f"{provider}: generation {entry['generation']} after {generation} at {last:.3f}")
            state, generation = step[1], int(entry["generation"])
    return found


def _overdue(streams: list[tuple[str, list[Line]]], faults: list[Line]) -> list[str]:
    """From open to half-open takes the time that it should, beside the faults that came in between."""
    found = []
    for provider, stream in streams:
        for before, after in pairwise(stream):
            if before.get("to") != "open" or after["event"] != "transition":
                continue
            start, end = before["at"], after["at"]
            meanwhile = sum(
                max(0.0, min(end, each["until"]) - max(start, each["t"]))
                for each in faults
                if _loses_writes(each)
                or each["kind"] in CUTS_OFF
                or each["kind"].startswith("rights_")
                or "broken" in each
                or "lost" in each
            )
            if end - start - meanwhile > DUE:
                found.append(
                    f"{provider} was open from {start:.3f} for {end - start:.1f} s, {meanwhile:.1f} s of faults"
                )
    return found


def _unexplained(lines: list[Line], streams: list[tuple[str, list[Line]]]) -> list[str]:
    """A half-open circuit opens after a failed trial call of its generation, and closes after enough that went well."""
    went: dict[tuple[str, int, bool], int] = defaultdict(int)
    for line in of(lines, "tried"):
        if line.get("alone"):
            continue  # of a state that a replica alone came to: its generations are not the fleet's
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


def _disturbed(faults: list[Line]) -> list[tuple[float, float, str]]:
    """From when to when Redis may have forgotten permits, and of which provider; '' for all."""
    found = []
    for each in faults:
        keys = {*each.get("gone", ())}
        end = each["until"] + truth.PERMIT_TTL + (HANG if each["kind"] == "dns_hangs" else 0.0)
        if _loses_writes(each) or each["kind"] in CUTS_OFF or each["kind"].startswith("rights_"):
            found.append((each["t"], end, ""))
        elif "rr:providers" in keys:
            found.append((each["t"], end, ""))  # a fleet that cannot read decides alone
        elif "provider" in each and keys & {_key(each["provider"], kind) for kind in ("health", "permits")}:
            found.append((each["t"], end, each["provider"]))
    return found


def _too_many_trials(lines: list[Line], faults: list[Line]) -> list[str]:
    """Never more fleet-wide trial calls in flight than the limit; a dead or frozen replica's count until its ttl."""
    disturbed = _disturbed(faults)
    stopped: dict[str, list[float]] = defaultdict(list)
    for line in faults:
        if "victim" in line:
            stopped[line["victim"]].append(line["t"])
    ends = {line["permit"]: line["t"] for line in of(lines, "tried")}
    edges: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for line in of(lines, "trial"):
        if "|" in line["permit"]:
            continue  # given out by the replica to itself, while it was alone
        began = line["t"]
        over = ends.get(line["permit"], float("inf"))
        mine = [(start, end) for start, end, provider in disturbed if provider in ("", line["provider"])]
        if any(start <= began <= end for start, end in mine):
            continue  # Redis may have forgotten permits; they run out by then
        over = min([over, *(start for start, _ in mine if start > began)])
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
        for line in of(lines, "report")
        if line["view"] != truth_in_redis or not line["up"]
    ]
