"""LangChain before two providers: a model that may call a tool.

pip install -e . langchain-openai
OPENAI_URL=… OPENAI_API_KEY=… AZURE_URL=… AZURE_API_KEY=… python langchain_failover.py
"""

import os

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from redis_router import Provider, Router
from redis_router.integrations.httpx import Upstream, failover

router: Router[Upstream] = Router(os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"))
for name in ("OPENAI", "AZURE"):
    upstream = Upstream(os.environ[f"{name}_URL"], os.environ[f"{name}_API_KEY"])
    router.register_provider(Provider(name.lower(), models=("gpt-4o",), client=upstream))
transport = failover(router, deadline=120.0, first_token_timeout=15.0)
sync, awaited = DefaultHttpxClient(transport=transport), DefaultAsyncHttpxClient(transport=transport)
model = ChatOpenAI(model="gpt-4o", api_key=lambda: "-", http_client=sync, http_async_client=awaited)


@tool
def weather(city: str) -> str:
    """What the weather is like in a city."""
    return f"It rains in {city}."


if __name__ == "__main__":
    with router:
        messages: list[BaseMessage] = [HumanMessage("Do I need an umbrella in Bergen?")]
        messages.append(said := model.bind_tools([weather]).invoke(messages))
        messages += [weather.invoke(call) for call in said.tool_calls]
        for part in model.stream(messages):
            print(part.text, end="", flush=True)
