"""A page over each store, asked without a server; and a router whose providers it shows."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_router.operate.http import Answer, Request
from redis_router.operate.service import Service
from redis_router.operate.stream import Stream

TOKEN = "a token for tests, 32 chars long"
BEARER = {"authorization": f"Bearer {TOKEN}"}


class Asked:
    """A service, asked as a client would."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def __call__(self, path: str, body: Any = None, **asked: Any) -> tuple[int, Any]:
        """The status, and the body as JSON; it takes what `answer` does."""
        answer = self.answer(path, body, **asked)
        assert isinstance(answer, Answer)
        return answer.status, json.loads(answer.body) if answer.kind == "application/json" else answer.body

    def answer(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "",
        query: str = "",
        peer: str = "127.0.0.1",
        raw: bytes | None = None,
        **headers: str,
    ) -> Answer | Stream:
        """Headers by their names, with `_` for `-`; a body makes it a POST of JSON."""
        sent = {"host": "localhost:9464", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body is not None or raw is not None:
            method = method or "POST"
            sent.setdefault("content-type", "application/json")
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        return self.service.answer(Request(method or "GET", path, query, sent, data, peer=peer))

    def act(self, **said: Any) -> tuple[int, Any]:
        """An action, with the token."""
        return self("/api/v1/actions", said, **BEARER)


@pytest.fixture
def page(backend) -> Iterator[Callable[..., Asked]]:
    """Makes pages on the backend: page(token=None, open_to_look=False)."""
    made: list[Service] = []

    def make(**options: Any) -> Asked:
        options = {"token": TOKEN, "open_to_look": True, **options}
        made.append(Service(backend.connect(), backend.namespace, **options))
        return Asked(made[-1])

    yield make
    for each in made:
        each.close()
