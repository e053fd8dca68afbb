"""The gateway in a process of its own, in front of two servers that misbehave as they are told."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import KEY, GatewayProcess, entry, write
from tests.support.http import LlmServer, llm_server

KEYS = [{"name": "tests", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]
MODELS = {
    "openai": [f"gpt-{number}" for number in range(60)],
    "anthropic": [f"claude-{number}" for number in range(40)],
}
"""A test takes one that no other test used: each has two providers, and so circuits, of its own."""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[LlmServer, LlmServer]]:
    with llm_server() as first, llm_server() as second:
        yield first, second


@pytest.fixture
def servers(both: tuple[LlmServer, LlmServer]) -> tuple[LlmServer, LlmServer]:
    """The first is asked first."""
    for server in both:
        server.faults.clear()
        server.always = None
        server.asked.clear()
        server.heads.clear()
        server.goes_on.clear()
    return both


def two_each(both: tuple[LlmServer, LlmServer]) -> list[dict[str, Any]]:
    """For each model a first provider, and a second one, which is asked where the first fails."""
    return [
        entry(model, f"{model}-{place}", server.url, api=api, weight=weight)
        for api, models in MODELS.items()
        for model in models
        for place, server, weight in zip(("first", "second"), both, (1e6, 1e-6), strict=True)
    ]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, both: tuple[LlmServer, LlmServer]) -> Iterator[GatewayProcess]:
    """One for a module."""
    settings = {"keys": KEYS, "strategy": "weighted", "deadline": 20, "forward_headers": ["x-team"]}
    path = write(tmp_path_factory.mktemp("gateway") / "config.yaml", two_each(both), gateway_settings=settings)
    running = GatewayProcess(path, "--drain-seconds", "0").wait_ready()
    yield running
    assert running.end() == 0, "".join(running.log)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., GatewayProcess]]:
    """Makes gateways of a file."""
    running: list[GatewayProcess] = []

    def start(config: Path, *options: str, **more: Any) -> GatewayProcess:
        running.append(GatewayProcess(config, *options, **more))
        return running[-1].wait_ready()

    yield start
    for each in running:
        each.end()


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """The next model of an API."""
    used: dict[str, Any] = request.module.__dict__.setdefault(
        "_MODELS_LEFT", {api: list(names) for api, names in MODELS.items()}
    )
    return lambda api: str(used[api].pop())
