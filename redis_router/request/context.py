"""What the attempts of one router share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from redis_router.replica.engine import Engine
from redis_router.request.chooser import Chooser
from redis_router.request.classify import Verdicts
from redis_router.runtime.log import Seldom


@dataclass(frozen=True, slots=True)
class Context:
    """What the attempts of one router share.

    now        this process's monotonic clock, in seconds
    failovers  says where a request went on to the next provider, at most once a second for each
    """

    engine: Engine
    chooser: Chooser
    verdicts: Verdicts
    now: Callable[[], float]
    failovers: Seldom = field(default_factory=Seldom)
