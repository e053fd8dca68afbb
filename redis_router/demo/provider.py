"""A pretended LLM provider: a small part of the OpenAI chat API over real HTTP, which fails on command.

POST /v1/chat/completions   answers after its latency, or with 500 while it fails
GET  /healthz               what a worker probes: 200, or 503 while it fails
POST /admin?failing=true    begins to fail; failing=false heals
POST /admin?latency=1.5     answers after so many seconds from now on
"""

import argparse
import asyncio
import random
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from redis_router.demo.web import serve


class PretendProvider:
    """One provider's behaviour; `latency` in seconds."""

    def __init__(self, name: str, latency: float) -> None:
        self.name = name
        self.latency = latency
        self.failing = False
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/healthz", self.health),
                Route("/admin", self.command, methods=["POST"]),
            ]
        )

    async def complete(self, request: Request) -> Response:
        asked = await request.json()
        await asyncio.sleep(self.latency * random.uniform(0.7, 1.3))
        if self.failing:
            return JSONResponse({"error": {"message": f"{self.name} is out of order", "type": "server_error"}}, 500)
        message = {"role": "assistant", "content": f"Hello from {self.name}."}
        return JSONResponse(
            {
                "id": f"chatcmpl-{time.time_ns():x}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
        )

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("out of order" if self.failing else "ok", 503 if self.failing else 200)

    async def command(self, request: Request) -> Response:
        asked = request.query_params
        self.failing = asked.get("failing", str(self.failing).lower()) == "true"
        self.latency = float(asked.get("latency", self.latency))
        return PlainTextResponse(f"{self.name}: failing={self.failing} latency={self.latency}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("--name", required=True)
    root.add_argument("--latency", type=float, default=0.03, help="seconds")
    root.add_argument("--host", default="127.0.0.1")
    root.add_argument("--port", type=int, default=0)
    return root


def main() -> None:
    arguments = parser().parse_args()
    serve(PretendProvider(arguments.name, arguments.latency).app, arguments.host, arguments.port)


if __name__ == "__main__":
    main()
