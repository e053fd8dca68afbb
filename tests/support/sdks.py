"""SDKs, sync and async, with each of their APIs: made as their documentation makes them."""

import asyncio
from typing import Any

import anthropic
import openai

from redis_router.integrations.httpx import Upstream
from tests.support.http import LlmServer

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 9}


class Sdk:
    """One SDK, sync or async, with one of its APIs; in asyncio one loop runs all."""

    def __init__(self, module: Any, asks: str, is_async: bool) -> None:
        self.module, self.asks, self.is_async = module, asks, is_async
        self._runner = asyncio.Runner() if is_async else None
        self._clients: list[Any] = []

    def run(self, made: Any) -> Any:
        """What a method returned; in asyncio, what comes of it."""
        return self._runner.run(made) if self._runner is not None else made

    def client(self, transport: Any, **options: Any) -> Any:
        """As it is made by default, retries of the SDK's own included."""
        kind = "Anthropic" if self.module is anthropic else "OpenAI"
        http = "DefaultAsyncHttpxClient" if self.is_async else "DefaultHttpxClient"
        made = getattr(self.module, f"Async{kind}" if self.is_async else kind)
        options = {"api_key": "of-the-client", **options}
        self._clients.append(made(http_client=getattr(self.module, http)(transport=transport), **options))
        return self._clients[-1]

    def ask(self, client: Any, stream: bool = False, **options: Any) -> str:
        """The text of an answer. Raises what the SDK raises."""
        if self.is_async:
            return str(self.run(self._ask_async(client, stream, options)))
        said = self._create(client)(**self._question(options), stream=stream)
        return "".join(self._text_of(event) for event in said) if stream else self._text_of(said)

    async def _ask_async(self, client: Any, stream: bool, options: Any) -> str:
        said = await self._create(client)(**self._question(options), stream=stream)
        return "".join([self._text_of(event) async for event in said]) if stream else self._text_of(said)

    def _create(self, client: Any) -> Any:
        places = {"chat": lambda: client.chat.completions, "responses": lambda: client.responses}
        return places.get(self.asks, lambda: client.messages)().create

    def _question(self, options: Any) -> dict[str, Any]:
        if self.asks == "responses":
            return {"model": "m", "input": "Hello?", **options}
        return {**QUESTION, **options}

    def _text_of(self, said: Any) -> str:
        if self.asks == "responses":
            delta = getattr(said, "delta", None)
            return delta if isinstance(delta, str) else getattr(said, "output_text", "")
        if self.asks == "chat":
            choice = said.choices[0]
            return (choice.message if hasattr(choice, "message") else choice.delta).content or ""
        if hasattr(said, "content"):
            return str(said.content[0].text)
        return getattr(getattr(said, "delta", None), "text", "") or ""

    def upstream(self, server: LlmServer, name: str, **options: Any) -> Upstream:
        base = server.url if self.module is anthropic else f"{server.url}/v1"
        return Upstream(base, f"key-of-{name}", **options)

    def close(self) -> None:
        for client in self._clients:
            self.run(client.close())
        if self._runner is not None:
            self._runner.close()


SDKS = {
    f"{asks}-{'async' if is_async else 'sync'}": (module, asks, is_async)
    for module, asks in ((openai, "chat"), (openai, "responses"), (anthropic, "messages"))
    if asks != "responses" or hasattr(openai.OpenAI, "responses")  # since 1.66
    for is_async in (False, True)
}
