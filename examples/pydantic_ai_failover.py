"""pydantic-ai before two providers: an agent with a tool, whose answer is a stream.

pip install -e . 'pydantic-ai-slim[openai]'
OPENAI_URL=… OPENAI_API_KEY=… AZURE_URL=… AZURE_API_KEY=… python pydantic_ai_failover.py
"""

import asyncio
import os

from openai import DefaultAsyncHttpxClient
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from redis_router import Provider, Router
from redis_router.integrations.httpx import Upstream, failover

router: Router[Upstream] = Router(os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"))
for name in ("OPENAI", "AZURE"):
    upstream = Upstream(os.environ[f"{name}_URL"], os.environ[f"{name}_API_KEY"])
    router.register_provider(Provider(name.lower(), models=("gpt-4o",), client=upstream))
http = DefaultAsyncHttpxClient(transport=failover(router, deadline=120.0, first_token_timeout=15.0))
agent = Agent(OpenAIChatModel("gpt-4o", provider=OpenAIProvider(api_key="-", http_client=http)))


@agent.tool_plain
def weather(city: str) -> str:
    """What the weather is like in a city."""
    return f"It rains in {city}."


async def main(question: str) -> None:
    async with router, http, agent.run_stream(question) as answer:
        async for part in answer.stream_text(delta=True):
            print(part, end="", flush=True)


if __name__ == "__main__":
    asyncio.run(main("Do I need an umbrella in Bergen?"))
