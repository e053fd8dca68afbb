"""What the leader knows of providers and their probes: pure bookkeeping, in which nothing takes longer where there are
many. Moments are monotonic."""

import heapq
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from redis_router.probe import Probe
from redis_router.worker.prober import Said, Verdict

K = TypeVar("K")


class Agenda(Generic[K]):
    """Keys, each with the one moment when its turn comes."""

    def __init__(self) -> None:
        self._moments: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._numbers = count()

    def put(self, key: K, at: float) -> None:
        """Its turn comes then, and not when it was to come before."""
        if self._moments.get(key) == at:
            return
        self._moments[key] = at
        heapq.heappush(self._heap, (at, next(self._numbers), key))
        if len(self._heap) > 2 * len(self._moments) + 64:  # most are out of date
            self._heap = [(moment, next(self._numbers), each) for each, moment in self._moments.items()]
            heapq.heapify(self._heap)

    def drop(self, key: K) -> None:
        """Its turn does not come."""
        self._moments.pop(key, None)

    @property
    def next_at(self) -> float:
        """When the next turn comes; infinity where there is none."""
        while self._heap and self._moments.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def pop(self, now: float) -> K | None:
        """Whose turn it is, None where it is nobody's. It has no further turn until it is put again."""
        if self.next_at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        self.drop(key)
        return key


class Changes:
    """Providers to look at once more; any thread may note one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._noted: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._noted)

    def note(self, name: str, gone: bool = False) -> None:
        """Something changed; `gone` where there was no record of it for a while."""
        with self._lock:
            self._noted[name] = self._noted.get(name, False) or gone

    def pop(self) -> tuple[str, bool] | None:
        """One of them, and whether it was gone; None where there is none."""
        with self._lock:
            return self._noted.popitem() if self._noted else None

    def clear(self) -> None:
        """There is nothing to look at."""
        with self._lock:
            self._noted.clear()


@dataclass(slots=True, eq=False)
class Question:
    """One probe: asked once for all providers that have it, and what it says counts for each of them."""

    probe: Probe
    providers: dict[str, None] = field(default_factory=dict)
    running: bool = False
    began: float = float("-inf")
    """When the last one began that said something."""
    said: Said | None = None
    impossible: str = ""
    """Why it cannot be asked by this worker."""

    def passed_since(self, moment: float) -> bool:
        """Did one that began then or later pass, and none fail after it?"""
        return self.said is Said.PASSES and self.began >= moment

    def is_worth_asking(self, moment: float) -> bool:
        """Before its turn, for a circuit that is due since that moment?"""
        return not self.running and self.began < moment and self.said in (None, Said.PASSES)


@dataclass(slots=True, eq=False)
class Watched:
    """One provider: its probe's verdicts in a row, and when its circuit may be moved after a try that moved nothing."""

    name: str
    question: Question | None = None
    passes: int = 0
    fails: int = 0
    retry_at: float = 0.0

    def count(self, passed: bool) -> None:
        """One more in a row, or the first of another row."""
        self.passes, self.fails = (self.passes + 1, 0) if passed else (0, self.fails + 1)


class Watch:
    """All providers, all questions, and whose turn it is to be asked."""

    def __init__(self) -> None:
        self.providers: dict[str, Watched] = {}
        self.running = 0
        self._questions: dict[Probe, Question] = {}
        self._turns: Agenda[Probe] = Agenda()

    def of(self, name: str, probe: Probe | None) -> Watched:
        """The provider, which has this probe now. With another one than before its rows begin anew."""
        watched = self.providers.get(name)
        if watched is None:
            watched = self.providers[name] = Watched(name)
        if (watched.question.probe if watched.question is not None else None) != probe:
            self._leave(watched)
            watched.passes = watched.fails = 0
            watched.question = self._join(name, probe) if probe is not None else None
        return watched

    def forget(self, name: str) -> None:
        """There is no such provider any more."""
        watched = self.providers.pop(name, None)
        if watched is not None:
            self._leave(watched)

    def _join(self, name: str, probe: Probe) -> Question:
        question = self._questions.get(probe)
        if question is None:
            question = self._questions[probe] = Question(probe)
            self._turns.put(probe, 0.0)
        question.providers[name] = None
        return question

    def _leave(self, watched: Watched) -> None:
        question = watched.question
        if question is not None:
            question.providers.pop(watched.name, None)
            self._drop_if_idle(question)

    def _drop_if_idle(self, question: Question) -> bool:
        idle = not question.providers and not question.running
        if idle:
            del self._questions[question.probe]
            self._turns.drop(question.probe)
        return idle

    # Turns

    @property
    def next_at(self) -> float:
        """When the next question is to be asked."""
        return self._turns.next_at

    def all_questions(self) -> Iterator[Question]:
        """Those that can be asked here and are not being asked."""
        return (each for each in self._questions.values() if not each.running and not each.impossible)

    def due(self, now: float) -> Question | None:
        """Whose turn it is."""
        probe = self._turns.pop(now)
        return None if probe is None else self._questions[probe]

    def begun(self, question: Question) -> None:
        """It is being asked."""
        question.running = True
        self.running += 1
        self._turns.drop(question.probe)

    def ended(self, verdict: Verdict, next_at: float) -> Question | None:
        """The question that this answers, whose next turn comes then; None where nobody has it any more."""
        question = self._questions[verdict.probe]
        question.running = False
        self.running -= 1
        if self._drop_if_idle(question):
            return None
        question.said = verdict.said
        if verdict.said is Said.IMPOSSIBLE:
            question.impossible = verdict.why
            return question
        if verdict.said is not Said.NOT_ASKED:
            question.began = verdict.began
        self._turns.put(question.probe, next_at)
        return question
