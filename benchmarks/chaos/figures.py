"""What a run of the soak measured."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from benchmarks.chaos.service import Line, of
from benchmarks.chaos.verdict import accounts


def figures(lines: list[Line]) -> list[tuple[str, str]]:
    """What the run measured."""
    faults = of(lines, "fault")
    kinds: dict[str, int] = defaultdict(int)
    for line in faults:
        kinds[line["kind"]] += 1
    reports = of(lines, "report")
    recorded = sum(line["recorded"] for line in reports)
    applied = sum(accounts(line)[0] for line in reports)
    dropped: dict[str, float] = defaultdict(float)
    for line in reports:
        for reason in ("buffer_full", "expired", "refused"):
            dropped[reason] += line["counts"].get(reason, 0.0)
    selects = [line["selects"] for line in reports]
    saw = [line for line in of(lines, "saw") if not line["alone"]]
    alone = [line for line in of(lines, "saw") if line["alone"]]
    noticed, rejoined = _outages(lines, faults)
    return [
        ("faults injected", f"{len(faults)}: " + ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))),
        ("select, median / p99 / p99.9", " / ".join(_us(median(s[q] for s in selects)) for q in (1, 2, 3))),
        ("time to notice that the master is gone", _spread(noticed)),
        ("time to rejoin once a master serves", _spread(rejoined)),
        ("outcomes recorded by replicas that lived", f"{recorded}"),
        ("  applied", f"{applied:g}"),
        ("  dropped and counted", ", ".join(f"{reason} {n:g}" for reason, n in dropped.items())),
        ("requests that nobody could take", _refused(lines, faults)),
        ("transitions seen, of the fleet / alone", f"{len(saw)} / {len(alone)}"),
        ("trial calls", f"{len(of(lines, 'trial'))}"),
        (
            "an open circuit that Redis lost is back",
            _spread(_known(v for f in faults for v in f.get("lost", {}).values())),
        ),
        ("a neighbour opens while a record is broken", _spread(_known(f["opened"] for f in faults if "opened" in f))),
        (
            "a circuit opens in a replica alone",
            _spread(_known(v for f in faults for v in f.get("decided", {}).values())),
        ),
    ]


def _refused(lines: list[Line], faults: list[Line]) -> str:
    """How many, and during which faults or up to the next one most of them."""
    kinds: dict[str, int] = defaultdict(int)
    for line in of(lines, "chose"):
        before = [each for each in faults if each["t"] <= line["t"]]
        kinds[before[-1]["kind"] if before else "start"] += line["refused"]
    most = sorted(((n, kind) for kind, n in kinds.items() if n), reverse=True)[:3]
    return f"{sum(kinds.values())}" + (", most: " + ", ".join(f"{kind} {n}" for n, kind in most) if most else "")


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"


def _outages(lines: list[Line], faults: list[Line]) -> tuple[list[float], list[float]]:
    """For each fault that took the master away, and each replica: seconds to notice; to rejoin once it was served."""
    edges: dict[str, list[Line]] = defaultdict(list)
    for line in sorted(of(lines, "edge"), key=lambda line: line["t"]):
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


def _known(seconds: Iterable[float | None]) -> list[float]:
    return [each for each in seconds if each is not None]


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "no such fault"
    return f"median {median(seconds):.2f} s, most {max(seconds):.2f} s ({len(seconds)} times)"
