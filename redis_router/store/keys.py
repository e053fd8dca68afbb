"""The only spelling of the Redis keys.

The provider's name is a cluster hash tag, so all keys of one provider share a slot and one script may touch them all:

    rr:providers               HASH    name -> JSON spec (models, probe): what a worker and the CLI need
    rr:{openai}:health         HASH    the whole record of one provider, thresholds included
    rr:{openai}:permits        ZSET    half-open permits: token -> expiry, ms since the epoch
    rr:{openai}:seq:<session>  STRING  the last batch applied from that process, and the transitions it made
    rr:{openai}:seq:<session>:half_open  STRING  the same for its half-open transitions
    rr:{openai}:reporters      ZSET    with min_reporters: sessions whose last word was a failure -> when, ms
    rr:{openai}:in_flight      HASH    session -> calls that it has under way, those overdue, those answered, when
    rr:{openai}:events         STREAM  capped log of transitions and operator actions
    rr:seen                    HASH    name -> when a replica that serves it said so last, ms
    rr:replicas                HASH    session -> when a replica or worker spoke last, ms, and what it said: JSON
    rr:{leader}                HASH    worker, epoch, since_ms, until_ms, session
    rr:{leader}:told           HASH    name -> the last entry of its log that the webhook was told
    rr:events                  PUBSUB  one JSON message per change
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace."""

    namespace: str = "rr"

    @property
    def providers(self) -> str:
        return f"{self.namespace}:providers"

    @property
    def seen(self) -> str:
        return f"{self.namespace}:seen"

    @property
    def replicas(self) -> str:
        return f"{self.namespace}:replicas"

    @property
    def leader(self) -> str:
        return f"{self.namespace}:{{leader}}"

    @property
    def told(self) -> str:
        return f"{self.leader}:told"

    @property
    def channel(self) -> str:
        return f"{self.namespace}:events"

    def health(self, provider: str) -> str:
        return f"{self.namespace}:{{{provider}}}:health"

    def permits(self, provider: str) -> str:
        return f"{self.namespace}:{{{provider}}}:permits"

    def seq(self, provider: str, session: str) -> str:
        return f"{self.namespace}:{{{provider}}}:seq:{session}"

    def reporters(self, provider: str) -> str:
        return f"{self.namespace}:{{{provider}}}:reporters"

    def in_flight(self, provider: str) -> str:
        return f"{self.namespace}:{{{provider}}}:in_flight"

    def events(self, provider: str) -> str:
        return f"{self.namespace}:{{{provider}}}:events"
