"""The page as an ASGI app, to mount in a gateway:

    app.mount("/operate", operate_app("redis://localhost:6379/0", token=os.environ["OPERATE_TOKEN"]))

All links of the page are relative, so it may lie under any path. What waits for Redis does so in threads of its own,
never on the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from redis_router.errors import InvalidArgument
from redis_router.operate.guard import check_token
from redis_router.operate.http import (
    MOST_BODY,
    SECURITY_HEADERS,
    STREAM_HEADERS,
    Answer,
    Refused,
    Request,
    as_error,
    cut_short,
)
from redis_router.operate.service import Service
from redis_router.operate.stream import LOOK_SECONDS, Stream
from redis_router.runtime.log import log

__all__ = ["OperateApp", "operate_app"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

THREADS, WAITING = 4, 64
"""So many questions wait for Redis at once, and so many for their turn; one more is refused."""
STREAMS = 32
PATIENCE_SECONDS = 30.0
"""For a body to come, and for an event to be taken."""


def operate_app(
    redis: Any,
    namespace: str = "rr",
    *,
    token: str | None = None,
    open_to_look: bool = False,
    hosts: Collection[str] = (),
) -> "OperateApp":
    """An ASGI app with the page.

    redis, namespace  as for Router
    token             who has it may look and act; at least 16 characters
    open_to_look      may everybody look who reaches the app? For where something before it asks who comes. Without a
                      token nobody may act then.
    hosts             where everybody may look: the names under which the app is reached, beside localhost, addresses,
                      and names without a dot

    Raises InvalidArgument. It opens no connection before the first request, and follows the fleet from then on.
    """
    if token is None and not open_to_look:
        raise InvalidArgument(
            "the page would be of no use to anybody: give token=, or open_to_look=True where something before it asks"
            " who comes"
        )
    checked = check_token(token, "token")
    return OperateApp(Service(redis, namespace, token=checked, open_to_look=open_to_look, hosts=hosts, streams=STREAMS))


class OperateApp:
    """See `operate_app`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._threads = ThreadPoolExecutor(THREADS, "redis-router-page")
        self._waiting = 0

    def close(self) -> None:
        """End the streams and what runs in the background. A process that ends need not call it."""
        self._service.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await self._serve(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Where it is served by itself; what is mounted hears nothing of it."""
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        path = _path_below(scope)
        if not path:  # relative links need the slash
            await _send(send, HTTPStatus.TEMPORARY_REDIRECT, [("Location", f"{scope.get('root_path', '')}/")], b"")
            return
        body = await _body(receive)
        answer: Answer | Stream
        if isinstance(body, Refused):
            answer = as_error(body)
        elif self._waiting >= WAITING:
            answer = as_error(Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many wait for Redis: try again"))
        else:
            answer = await self._in_thread(self._service.answer, _request(scope, path, body))
        if isinstance(answer, Stream):
            await self._send_stream(answer, receive, send)
        else:
            shown = b"" if scope["method"] == "HEAD" else answer.body
            await _send(send, answer.status, answer.all_headers, shown)

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self._waiting += 1
        asked = self._threads.submit(call, *arguments)
        try:
            return await asyncio.wrap_future(asked)
        except asyncio.CancelledError:  # as a middleware does where its client hangs up
            asked.add_done_callback(_close_unused)
            raise
        finally:
            self._waiting -= 1

    async def _send_stream(self, stream: Stream, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await _begin(send, HTTPStatus.OK, [*STREAM_HEADERS, *SECURITY_HEADERS])
            while not stream.is_over and not gone.done():
                if stream.is_due:
                    found = await self._in_thread(stream.take)
                    async with asyncio.timeout(PATIENCE_SECONDS):  # who does not read leaves its place to others
                        await send({"type": "http.response.body", "body": found, "more_body": True})
                await asyncio.sleep(LOOK_SECONDS)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.info("page: a viewer that does not read was left")
        finally:
            gone.cancel()
            stream.close()


def _close_unused(asked: Future[Any]) -> None:
    """Nobody is there to send it any more: its place is free."""
    with suppress(Exception):  # of a request that is gone
        if isinstance(answer := asked.result(), Stream):
            answer.close()


def _path_below(scope: Message) -> str:
    """Below where the app is mounted; '' for that itself. Servers differ in whether `path` has the root, too."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


def _request(scope: Message, path: str, body: bytes) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw.decode("latin-1")
        # HTTP/2 may bring each cookie in a header of its own
        headers[name] = f"{headers[name]}; {value}" if name == "cookie" and name in headers else value
    peer = (scope.get("client") or ("", 0))[0]
    is_secure = scope.get("scheme") == "https"
    query = scope.get("query_string", b"").decode("latin-1")
    return Request(scope["method"], path, query, headers, body, str(peer), is_secure)


async def _body(receive: Receive) -> bytes | Refused:
    """Or why it cannot be had. A client that sends no end of it is no failure of the gateway's."""
    body = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (message := await receive())["type"] == "http.request":
                body += bytes(message.get("body", b""))
                if len(body) > MOST_BODY:
                    too_long = f"the body is too long: send at most {MOST_BODY} bytes"
                    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_long)
                if not message.get("more_body", False):
                    return body
    return cut_short()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _begin(send: Send, status: HTTPStatus, headers: list[tuple[str, str]]) -> None:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status.value, "headers": raw})


async def _send(send: Send, status: HTTPStatus, headers: list[tuple[str, str]], body: bytes) -> None:
    await _begin(send, status, headers)
    await send({"type": "http.response.body", "body": body, "more_body": False})
