"""Starts replicas and workers as processes, and ends them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.processes import ReplicaProcess, WorkerProcess


@pytest.fixture
def replicas(one_real) -> Iterator[Callable[..., list[ReplicaProcess]]]:
    """Starts replicas side by side: replicas(8, circuit={...}, router={...})."""
    started: list[ReplicaProcess] = []

    def start(
        number: int, circuit: dict[str, Any] | None = None, router: dict[str, Any] | None = None
    ) -> list[ReplicaProcess]:
        new = [ReplicaProcess(one_real.url, one_real.namespace, circuit or {}, router or {}) for _ in range(number)]
        started.extend(new)
        return [replica.wait_ready() for replica in new]

    yield start
    for replica in started:
        replica.end()


@pytest.fixture
def workers(one_real) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts a worker: workers("--lease", "1")."""
    started: list[WorkerProcess] = []

    def start(*options: str, url: str = one_real.url, env: dict[str, str] | None = None) -> WorkerProcess:
        started.append(WorkerProcess(url, one_real.namespace, *options, env=env))
        return started[-1].wait_ready()

    yield start
    for worker in started:
        worker.end()


@pytest.fixture
def base(one_real):
    """Of a command: as an operator, who may scan for keys and read the log."""
    return ("--redis", one_real.url.replace("router:password@", ""), "--namespace", one_real.namespace)
