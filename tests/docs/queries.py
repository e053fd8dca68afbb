"""What a query of Prometheus reads: parsed, and compared with the metrics that there are."""

from dataclasses import dataclass, field
from typing import Any

import promql_parser

from tests.docs.collectors import METRICS, SERIES

SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds."""
NAMED = ("provider", "model", "reason", "override", "thread", "path", "status", "key")
"""Labels whose values are checked elsewhere, or may be anything."""


@dataclass
class Read:
    """The series that a query names, those it takes a rate of, and the labels that it groups by."""

    selectors: list[Any] = field(default_factory=list)
    rated: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)


def read(query: str) -> Read:
    """Parse it, with a value in place of Grafana's intervals. Raises ValueError."""
    found = Read()

    def visit(node: Any) -> None:
        match type(node).__name__:
            case "VectorSelector":
                found.selectors.append(node)
            case "Call" if node.func.name in ("rate", "increase"):
                found.rated.append(node.args[0].vector_selector.name)
            case "AggregateExpr" if node.modifier is not None:
                found.kept.update(node.modifier.labels)

    for interval in ("$__rate_interval", "$__range"):
        query = query.replace(interval, "5m")
    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def check(query: str) -> None:
    """Names, labels and label values are those of the collectors; counters, and they alone, are taken a rate of."""
    found = read(query)
    assert found.selectors, query
    assert {selector.name for selector in found.selectors} <= SERIES.keys(), query
    known = {each.name: METRICS[SERIES[each.name]] for each in found.selectors}
    for selector in found.selectors:
        labels = known[selector.name][1]
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels.keys() | SCRAPED, f"{selector.name} has no label {matcher.name}"
            if matcher.name not in {*NAMED, *SCRAPED}:
                assert set(matcher.value.split("|")) <= labels[matcher.name], query
    assert found.kept <= SCRAPED.union(*(labels for _, labels in known.values())), query
    grow = {name for name, (kind, _) in known.items() if kind in ("counter", "histogram")}
    assert grow == set(found.rated), f"a rate is of what only grows: {query}"
