"""Frameworks above `failover`, made as examples/ makes them, before servers that misbehave."""

import asyncio
import gc
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from redis_router import Provider, Router
from redis_router.integrations.httpx import Upstream
from tests.support.http import LlmServer

MODEL = "gpt-4o"
QUESTION = "Do I need an umbrella?"
CITY = "Bergen"
ASKED_FOR = os.environ.get("REDIS_ROUTER_NEEDS_RECIPES", "").replace("-", "_")
"""What CI installed: see .ci/run. These must be there, and no others are tested."""


def needs(module: str) -> None:
    """Skip where a framework is not installed; fail where CI asks for it."""
    if module not in (ASKED_FOR or module):
        pytest.skip(f"CI tests {module} elsewhere")
    if not importlib.util.find_spec(module):
        (pytest.fail if ASKED_FOR else pytest.skip)(f"{module} is not installed")


class Framework:
    """One framework above a transport. `ask` and `ask_tool` raise what it raises."""

    module = ""
    has_sync = True

    def __init__(self, transport: Any, is_async: bool) -> None:
        self.is_async = is_async
        self.runner = asyncio.Runner()
        self.sync = openai.DefaultHttpxClient(transport=transport)
        self.awaited = openai.DefaultAsyncHttpxClient(transport=transport)
        self.weather_of: list[str] = []
        self.make()

    def make(self) -> None:
        """As the example makes it."""
        raise NotImplementedError

    def weather(self, city: str) -> str:
        """What the weather is like in a city."""
        self.weather_of.append(city)
        return f"It rains in {city}."

    def ask(self, stream: bool = False) -> str:
        """The text of an answer."""
        if self.is_async:
            return str(self.runner.run(self.stream_async() if stream else self.whole_async()))
        return self.stream() if stream else self.whole()

    def first_part(self) -> None:
        """Begins a stream, and ends it after its first part."""
        raise NotImplementedError

    def ask_tool(self) -> str:
        """The text of an answer, for which the tool is called."""
        raise NotImplementedError

    def turn(self) -> bool:
        """The loop of a real program goes on, and what nobody holds any more is collected; True."""
        gc.collect()
        self.runner.run(asyncio.sleep(0))
        return True

    def whole(self) -> str:
        raise NotImplementedError

    def stream(self) -> str:
        raise NotImplementedError

    async def whole_async(self) -> str:
        raise NotImplementedError

    async def stream_async(self) -> str:
        raise NotImplementedError

    def close(self) -> None:
        self.sync.close()
        self.runner.run(self.awaited.aclose())
        self.runner.close()


class PydanticAi(Framework):
    """It calls tools by itself."""

    module = "pydantic_ai"
    has_sync = False  # its sync methods run a loop of their own

    def make(self) -> None:
        from pydantic_ai import Agent
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        model = OpenAIChatModel(MODEL, provider=OpenAIProvider(api_key="-", http_client=self.awaited))
        self.agent, self.able = Agent(model), Agent(model, tools=[self.weather])

    async def whole_async(self) -> str:
        return str((await self.agent.run(QUESTION)).output)

    async def stream_async(self) -> str:
        async with self.agent.run_stream(QUESTION) as answer:
            return "".join([part async for part in answer.stream_text(delta=True, debounce_by=None)])

    def first_part(self) -> None:
        async def begin() -> None:
            async with self.agent.run_stream(QUESTION) as answer:
                await anext(aiter(answer.stream_text(delta=True, debounce_by=None)))

        self.runner.run(begin())

    def ask_tool(self) -> str:
        async def ask() -> str:
            async with self.able.run_stream(QUESTION) as answer:
                return str(await answer.get_output())

        return self.runner.run(ask())


class LangChain(Framework):
    """It leaves the calling of tools to the program."""

    module = "langchain_openai"

    def make(self) -> None:
        from langchain_openai import ChatOpenAI

        self.model = ChatOpenAI(model=MODEL, api_key="-", http_client=self.sync, http_async_client=self.awaited)

    def whole(self) -> str:
        return str(self.model.invoke(QUESTION).text)

    def stream(self) -> str:
        return "".join(str(part.text) for part in self.model.stream(QUESTION))

    async def whole_async(self) -> str:
        return str((await self.model.ainvoke(QUESTION)).text)

    async def stream_async(self) -> str:
        return "".join([str(part.text) async for part in self.model.astream(QUESTION)])

    def first_part(self) -> None:
        if not self.is_async:
            parts = self.model.stream(QUESTION)
            next(part for part in parts if part.text)
            parts.close()
            return

        async def begin() -> None:
            parts = self.model.astream(QUESTION)
            async for part in parts:
                if part.text:
                    break
            await parts.aclose()

        self.runner.run(begin())

    def ask_tool(self) -> str:
        from langchain_core.messages import HumanMessage
        from langchain_core.tools import tool

        weather = tool(self.weather)
        able = self.model.bind_tools([weather])
        messages: list[Any] = [HumanMessage(QUESTION)]
        messages.append(self.runner.run(able.ainvoke(messages)) if self.is_async else able.invoke(messages))
        messages += [weather.invoke(call) for call in messages[-1].tool_calls]
        return str((self.runner.run(able.ainvoke(messages)) if self.is_async else able.invoke(messages)).text)


class LlamaIndex(Framework):
    """Its function that calls tools ends with what the tool said."""

    module = "llama_index"

    def make(self) -> None:
        from llama_index.llms.openai import OpenAI

        options = {"http_client": self.sync, "async_http_client": self.awaited, "max_retries": 0}
        self.llm = OpenAI(MODEL, api_key="-", **options)

    def whole(self) -> str:
        return str(self.llm.complete(QUESTION))

    def stream(self) -> str:
        return "".join(part.delta or "" for part in self.llm.stream_complete(QUESTION))

    async def whole_async(self) -> str:
        return str(await self.llm.acomplete(QUESTION))

    async def stream_async(self) -> str:
        return "".join([part.delta or "" async for part in await self.llm.astream_complete(QUESTION)])

    def first_part(self) -> None:
        if not self.is_async:
            parts = self.llm.stream_complete(QUESTION)
            next(part for part in parts if part.delta)
            parts.close()
            return

        async def begin() -> None:
            parts = await self.llm.astream_complete(QUESTION)
            async for part in parts:
                if part.delta:
                    break
            await parts.aclose()

        self.runner.run(begin())

    def ask_tool(self) -> str:
        from llama_index.core.tools import FunctionTool

        tools = [FunctionTool.from_defaults(self.weather)]
        if self.is_async:
            self.runner.run(self.llm.apredict_and_call(tools, QUESTION))
        else:
            self.llm.predict_and_call(tools, QUESTION)
        return self.ask()


KINDS = {
    f"{kind.module}-{'async' if is_async else 'sync'}": (kind, is_async)
    for kind in (PydanticAi, LangChain, LlamaIndex)
    for is_async in (False, True)
    if is_async or kind.has_sync
}


@pytest.fixture(params=KINDS)
def framework(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Framework]]:
    """Makes one above a transport; each framework, sync and async where it has both."""
    kind, is_async = KINDS[request.param]
    needs(kind.module)
    made: list[Framework] = []

    def make(transport: Any) -> Framework:
        made.append(kind(transport, is_async))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def router(servers: tuple[LlmServer, LlmServer], started: Callable[..., Router[Any]]) -> Router[Any]:
    """Two providers; "first" is asked first."""
    made = started({})
    for name, weight, server in zip(("first", "second"), (1e6, 1e-6), servers, strict=True):
        upstream = Upstream(f"{server.url}/v1", f"key-of-{name}")
        made.register_provider(Provider(name, (MODEL,), weight=weight, client=upstream))
    return made
