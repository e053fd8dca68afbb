"""How the fleet served while something was broken: the promises that a fault itself put to the test.

The fault's line says what it did and what came of it; the replicas' lines say whom they called meanwhile.
"""

from collections.abc import Iterable
from typing import Any

from benchmarks.chaos import truth

Line = dict[str, Any]

BACK, OPENED, ALONE, DRAINED = 3.0, 5.0, 5.0, 2.0
"""Seconds: until an open circuit that Redis lost is back; until a neighbour that is down is open for the fleet; until a
replica that is cut off opened a circuit alone; until a weight of 0 is heeded."""


def of(lines: Iterable[Line], *whats: str) -> list[Line]:
    """The lines of these kinds."""
    return [line for line in lines if line["what"] in whats]


def _calls(lines: list[Line], start: float, end: float) -> dict[str, dict[str, int]]:
    """By replica: how often each provider was chosen in this time."""
    found: dict[str, dict[str, int]] = {}
    for line in of(lines, "chose"):
        if start <= line["t"] <= end:
            mine = found.setdefault(line["replica"], dict.fromkeys(truth.PROVIDERS, 0))
            for provider, number in line["calls"].items():
                mine[provider] += number
    return found


def neighbours(lines: list[Line], faults: list[Line]) -> list[str]:
    """While a record is broken, every replica calls the others, and one that goes down then is open for the fleet."""
    found = []
    for each in faults:
        if "broken" not in each:
            continue
        what = f"{each['kind']} ({each.get('detail', '')}) of {each['broken']} at {each['t']:.3f}"
        for replica, calls in _calls(lines, each["t"] + 1.0, each["mended"]).items():
            if not sum(number for provider, number in calls.items() if provider != each["broken"]):
                found.append(f"{what}: {replica} called nobody else")
        if each["opened"] is None or each["opened"] > OPENED:
            found.append(f"{what}: {each['down']} was down, and open after {each['opened']} s (None: not at all)")
        if each["whole"] is None:
            found.append(f"{what}: its record was not put right again")
    return found


def own_calls(lines: list[Line], faults: list[Line]) -> list[str]:
    """A provider whose record broke while its circuit was closed is called on; one of weight 0 is not."""
    found = []
    for each in faults:
        if each.get("was_closed"):
            calls = _calls(lines, each["t"] + DRAINED, each["mended"])
            idle = [replica for replica, mine in calls.items() if not mine[each["broken"]]]
            what = f"{each['kind']} ({each.get('detail', '')}) of {each['broken']} at {each['t']:.3f}"
            if idle:
                found.append(f"{what}: it works and is not called by {', '.join(sorted(idle))}")
        if "drained" in each:
            calls = _calls(lines, each["t"] + DRAINED, each["mended"])
            number = sum(mine[each["drained"]] for mine in calls.values())
            if number:
                found.append(f"{each['drained']} had the weight 0 at {each['t']:.3f}, and got {number} calls")
    return found


def not_back(faults: list[Line]) -> list[str]:
    """An open circuit whose record Redis lost is back in time."""
    return [
        f"{each['kind']} at {each['t']:.3f}: the open circuit of {provider} was back after {seconds} s (None: never)"
        for each in faults
        for provider, seconds in each.get("lost", {}).items()
        if seconds is None or seconds > BACK
    ]


def undecided(faults: list[Line]) -> list[str]:
    """A replica that Redis does not serve opens the circuit of a provider that is down."""
    return [
        f"{each['kind']} ({each.get('detail', '')}) at {each['t']:.3f}: {each['down_alone']} was down, and open in"
        f" {replica} alone after {seconds} s (None: not at all)"
        for each in faults
        for replica, seconds in each.get("decided", {}).items()
        if seconds is None or seconds > ALONE
    ]
