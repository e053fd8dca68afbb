"""LlamaIndex before two providers: a model that may call a tool, and whose answer is a stream.

pip install -e . llama-index-llms-openai
OPENAI_URL=… OPENAI_API_KEY=… AZURE_URL=… AZURE_API_KEY=… python llama_index_failover.py
"""

import os

from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from redis_router import Provider, Router
from redis_router.integrations.httpx import Upstream, failover

router: Router[Upstream] = Router(os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"))
for name in ("OPENAI", "AZURE"):
    upstream = Upstream(os.environ[f"{name}_URL"], os.environ[f"{name}_API_KEY"])
    router.register_provider(Provider(name.lower(), models=("gpt-4o",), client=upstream))
transport = failover(router, deadline=120.0, first_token_timeout=15.0)
sync, awaited = DefaultHttpxClient(transport=transport), DefaultAsyncHttpxClient(transport=transport)
llm = OpenAI("gpt-4o", api_key="-", http_client=sync, async_http_client=awaited, max_retries=0)


def weather(city: str) -> str:
    """What the weather is like in a city."""
    return f"It rains in {city}."


if __name__ == "__main__":
    with router:
        print(llm.predict_and_call([FunctionTool.from_defaults(weather)], "Do I need an umbrella in Bergen?"))
        for part in llm.stream_complete("Say it in Norwegian."):
            print(part.delta, end="", flush=True)
