"""What a worker can be told, checked once and passed on whole."""

from collections.abc import Collection
from dataclasses import dataclass, field

from redis_router.checks import check_name, check_number, check_seconds
from redis_router.errors import InvalidArgument
from redis_router.runtime.names import process_name


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """As `HealthChecker` takes them; durations in seconds. Raises InvalidArgument for what cannot be used."""

    namespace: str = "rr"
    interval: float = 10.0
    lease: float = 15.0
    probe_timeout: float = 5.0
    probe_env: Collection[str] = ()
    worker: str = field(default_factory=process_name)

    def __post_init__(self) -> None:
        check_name("namespace", self.namespace)
        check_seconds("interval", self.interval)
        check_number("lease", self.lease, least=1.0, most=3600.0)
        check_seconds("probe_timeout", self.probe_timeout)
        check_name("worker", self.worker)
        if isinstance(self.probe_env, str):
            raise InvalidArgument(f"probe_env is {self.probe_env!r}: give a list of names, such as ['OPENAI_API_KEY']")
