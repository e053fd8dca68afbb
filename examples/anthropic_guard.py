"""One Anthropic client whose provider is left alone, by the whole fleet, while it is down.

pip install -e . anthropic
python anthropic_guard.py "Hello?"
"""

import os
import sys

from anthropic import Anthropic, APIStatusError, DefaultHttpxClient

from redis_router import Router
from redis_router.integrations.httpx import guard

router: Router[None] = Router(os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"))
transport = guard(router, "anthropic")
client = Anthropic(
    base_url=os.environ.get("ANTHROPIC_URL", "https://api.anthropic.com"),
    api_key=os.environ.get("ANTHROPIC_API_KEY", "-"),
    http_client=DefaultHttpxClient(transport=transport),
)


def main(question: str) -> int:
    with router, client:
        try:
            answer = client.messages.create(
                model="claude-sonnet-4-5", max_tokens=500, messages=[{"role": "user", "content": question}]
            )
        except APIStatusError as error:  # 503 while the circuit is open, with the reasons
            print(error, file=sys.stderr)
            return 1
        print("".join(block.text for block in answer.content if block.type == "text"))
    return 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:]) or "Hello?"))
