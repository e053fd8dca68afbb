"""The connection of a client, beneath the gateway."""

import asyncio
import socket
import threading

import uvicorn

from redis_router.gateway import protocol
from redis_router.gateway.protocol import Bounded
from tests.support import eventually


def test_who_takes_nothing_is_cut_off(monkeypatch):
    """The application hears that the client has gone, while it waits to send."""
    monkeypatch.setattr(protocol, "TAKE_SECONDS", 0.2)
    heard = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        hears = asyncio.create_task(receive())
        while not hears.done():
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        heard.append(hears.result()["type"])

    config = uvicorn.Config(app, http=Bounded, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=server.run, args=([listener],))
        serving.start()
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            eventually(lambda: heard == ["http.disconnect"])
        server.should_exit = True
        serving.join()
