"""What happened in a demo run, gathered from the processes' own lines, and whether it went as it should."""

from dataclasses import dataclass, field
from typing import Any

Line = dict[str, Any]


@dataclass
class Story:
    """Lines carry `t`, wall-clock seconds of the one machine that all processes share, and `source`."""

    patient: str
    limit: int
    lease: float
    replicas: list[str]
    lines: list[Line] = field(default_factory=list)
    views: dict[str, Line] = field(default_factory=dict)
    answers: int = 0
    refusals: int = 0
    killed_at: float | None = None

    def add(self, line: Line) -> None:
        """Take in one line of a process."""
        if line["what"] == "view":
            self.views[line["source"]] = line
        else:
            self.lines.append(line)
            if line["what"] == "saw" and line["source"] in self.views:  # else a view from before is shown after it
                self.views[line["source"]]["states"][line["provider"]] = line["to"]

    def found(self, what: str, **facts: Any) -> list[Line]:
        return [x for x in self.lines if x["what"] == what and all(x.get(key) == value for key, value in facts.items())]

    def openings(self) -> list[int]:
        """The generations in which the patient's circuit opened, in order."""
        return sorted({x["generation"] for x in self.found("saw", provider=self.patient, to="open")})

    def spread(self, generation: int) -> float | None:
        """Seconds from the call that caused a transition until every replica had seen it; None where one never did."""
        seen = [x["t"] for x in self.found("saw", provider=self.patient, generation=generation)]
        causes = [x["t"] for x in self.found("call_failed", provider=self.patient) if seen and x["t"] <= min(seen)]
        return max(seen) - max(causes) if len(seen) == len(self.replicas) and causes else None

    def trials(self) -> tuple[int, int]:
        """Half-open calls, and how many of them were in flight at once over all replicas."""
        edges = [(x["t"], 1) for x in self.found("trial_began")] + [(x["t"], -1) for x in self.found("trial_ended")]
        now = most = 0
        for _, step in sorted(edges, key=lambda edge: (edge[0], edge[1])):
            now += step
            most = max(most, now)
        return len(self.found("trial_began")), most

    def tripping_calls(self) -> int:
        """Ordinary calls that failed at the patient: those that tripped the breaker, and others in flight."""
        return len(self.found("call_failed", provider=self.patient, permit=None))

    def strays(self, slowest_call: float) -> int:
        """Ordinary calls that went to the patient after every replica knew; a call may end `slowest_call` s after."""
        generations = self.openings()
        seen = (
            [x["t"] for x in self.found("saw", provider=self.patient, generation=generations[0])] if generations else []
        )
        known = max(seen, default=0.0) + slowest_call
        return sum(x["t"] > known for x in self.found("call_failed", provider=self.patient, permit=None))

    def takeover(self) -> float | None:
        """Seconds from the leader's end until another was elected."""
        if self.killed_at is None:
            return None
        return min((x["t"] - self.killed_at for x in self.found("elected") if x["t"] > self.killed_at), default=None)

    def summary(self) -> tuple[list[tuple[str, str]], list[str]]:
        """The figures, and what went wrong: an empty list for a run that went as it should."""
        openings, (trials, most), takeover = self.openings(), self.trials(), self.takeover()
        spread = self.spread(openings[0]) if openings else None
        tripping, strays = self.tripping_calls(), self.strays(slowest_call=0.5)
        closed_by = {x["source"] for x in self.found("saw", provider=self.patient, to="closed")}
        figures = [
            ("requests answered", str(self.answers)),
            ("user-visible failures", str(self.refusals)),
            (f"calls that failed at {self.patient} and tripped the breaker", str(tripping)),
            (f"ordinary calls to {self.patient} after every replica knew", str(strays)),
            ("tripping failure until every replica knew", "never" if spread is None else f"{spread * 1000:.1f} ms"),
            ("times the circuit opened", str(len(openings))),
            ("half-open calls let through", f"{trials}, at most {most} at once over the fleet (limit {self.limit})"),
            (
                "takeover after the leader was killed",
                "never" if takeover is None else f"{takeover:.1f} s (lease {self.lease:g} s)",
            ),
            ("replicas that saw the circuit close again", f"{len(closed_by)} of {len(self.replicas)}"),
        ]
        wrong = [
            text
            for failed, text in [
                (self.answers == 0, "no request was answered"),
                (self.refusals > tripping, "a user saw a failure that did not come from a tripping call"),
                (strays > 0, "a replica sent ordinary calls to a provider that it knew to be down"),
                (spread is None or spread > 1.0, "a replica did not hear of the opening within a second"),
                (trials == 0, "no half-open call was made"),
                (most > self.limit, "more half-open calls were in flight than the limit"),
                (takeover is None or takeover > self.lease + 1.0, "no worker took over in time"),
                (len(closed_by) < len(self.replicas), "the circuit did not close again everywhere"),
            ]
            if failed
        ]
        return figures, wrong
