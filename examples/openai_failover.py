"""One AsyncOpenAI client before two providers: a stream comes from whichever answers.

pip install -e . openai
python openai_failover.py "Hello?"
"""

import asyncio
import os
import sys

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from redis_router import Provider, Router
from redis_router.integrations.httpx import Upstream, failover

router: Router[Upstream] = Router(os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"))
for name in ("openai", "azure"):
    url = os.environ.get(f"{name.upper()}_URL", f"https://{name}.example/v1")
    upstream = Upstream(url, os.environ.get(f"{name.upper()}_API_KEY"))
    router.register_provider(Provider(name, models=("gpt-4o",), client=upstream))


async def main(question: str) -> None:
    transport = failover(router, deadline=120.0, first_token_timeout=15.0)
    async with router, AsyncOpenAI(api_key="-", http_client=DefaultAsyncHttpxClient(transport=transport)) as client:
        parts = await client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": question}], stream=True
        )
        async for part in parts:
            print(part.choices[0].delta.content or "" if part.choices else "", end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "Hello?"))
