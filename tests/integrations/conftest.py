"""SDKs above the transports: each as its documentation makes it, against servers that misbehave."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_router import Router
from tests.support.fleet import new_router, weighted
from tests.support.http import LlmServer, llm_server
from tests.support.sdks import SDKS, Sdk


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest) -> Iterator[Sdk]:
    """Each SDK and API, sync and async."""
    made = Sdk(*SDKS[request.param])
    yield made
    made.close()


@pytest.fixture
def servers() -> Iterator[tuple[LlmServer, LlmServer]]:
    with llm_server() as first, llm_server() as second:
        yield first, second


@pytest.fixture
def started() -> Iterator[Callable[..., Router[Any]]]:
    """Makes routers that are started; "first" is asked before "second"."""
    with weighted(new_router) as start:
        yield start
