"""What the gateway is told, as values: `config` makes them from the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from redis_router import Provider
from redis_router.checks import is_this_machine
from redis_router.integrations.httpx import Upstream

OPENAI, ANTHROPIC = "openai", "anthropic"
"""The APIs that a model may be asked by."""
LONGEST_DEADLINE = 3600.0
"""Seconds, where the file does not say it."""


@dataclass(frozen=True, slots=True)
class Key:
    """Who may ask.

    name    for the log and the metrics
    sha256  of the key, in hexadecimal: the key itself is in no file
    """

    name: str
    sha256: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the file says. Durations are in seconds.

    providers            each with an Upstream as its client, in the order of the file
    apis                 model → OPENAI or ANTHROPIC
    keys                 none: whoever reaches the gateway may ask
    allow_anyone         without keys, may it be reached from other machines?
    fallbacks            model → models to ask for instead, in this order
    deadline             for a request as a whole; a request may say another, up to `longest_deadline`
    first_token_timeout  for each attempt of a stream until its content; None for a share of the deadline
    max_attempts         providers that one request is sent to, at most; None for all
    forward_headers      of the client, in lower case, that providers get beside those that they always get
    max_body             bytes of a request
    strategy             of the router
    """

    providers: tuple[Provider[Upstream], ...]
    apis: Mapping[str, str]
    keys: tuple[Key, ...] = ()
    allow_anyone: bool = False
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    deadline: float = 600.0
    longest_deadline: float = LONGEST_DEADLINE
    first_token_timeout: float | None = None
    max_attempts: int | None = None
    forward_headers: frozenset[str] = frozenset()
    max_body: int = 32 << 20
    strategy: str = "adaptive"

    @property
    def is_open(self) -> bool:
        """May anyone ask, without that being said?"""
        return not self.keys and not self.allow_anyone


@dataclass(frozen=True, slots=True)
class Serving:
    """How it is served, as the command line says.

    config   the file
    port     0 takes a free one
    workers  processes
    works    do they take part in the election of the fleet's worker?
    drain_seconds  from SIGTERM until it stops listening
    end_seconds    from then on, for what is under way
    traces   spans of OpenTelemetry?
    """

    config: str
    redis: str
    namespace: str
    host: str
    port: int
    workers: int
    works: bool
    drain_seconds: float
    end_seconds: float
    traces: bool

    @property
    def is_for_this_machine(self) -> bool:
        """Can nobody else reach it?"""
        return is_this_machine(self.host)
