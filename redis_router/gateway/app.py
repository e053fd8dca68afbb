"""The gateway as an ASGI application: its routes, its life, and the file read again when it changes."""

import asyncio
import gc
import multiprocessing
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from redis_router.errors import InvalidArgument
from redis_router.gateway.config import load
from redis_router.gateway.errors import Refusal, error_body
from redis_router.gateway.metrics import Metrics
from redis_router.gateway.question import headers_of
from redis_router.gateway.relay import Relay
from redis_router.gateway.service import Service
from redis_router.gateway.settings import ANTHROPIC, OPENAI, Serving, Settings
from redis_router.runtime.log import log
from redis_router.telemetry.exposition import CONTENT_TYPE_LATEST, generate_latest, scrape_registry

PATHS = {
    "/v1/chat/completions": OPENAI,
    "/v1/completions": OPENAI,
    "/v1/embeddings": OPENAI,
    "/v1/responses": OPENAI,
    "/v1/messages": ANTHROPIC,
    "/v1/messages/count_tokens": ANTHROPIC,
}
"""What is passed through, and which API it is of."""
WATCH_SECONDS = 1.0


class Gateway:
    """One process of it."""

    def __init__(self, told: Serving) -> None:
        self._path = Path(told.config)
        self._drain_seconds = told.drain_seconds
        self._needs_keys = not told.is_for_this_machine
        self._metrics = Metrics()
        self._changed = asyncio.Event()
        self._seen = _stamp(self._path)  # before it is read: what changes meanwhile is read again
        self.service = Service(self._load(), told)
        relays = [
            Route(path, Relay(self.service, self._metrics, path, api), methods=["POST"]) for path, api in PATHS.items()
        ]
        self.app = Starlette(
            lifespan=self._lifespan,
            routes=[
                *relays,
                Route("/v1/models", self._models),
                Route("/v1/models/{model:path}", self._model),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._show_metrics),
            ],
            exception_handlers={404: _not_here, 405: _not_here},
        )
        self.app.router.redirect_slashes = False  # a redirect would name http://, also where TLS ends before us

    def _load(self) -> Settings:
        """Raises BadConfig; InvalidArgument for a file that would open to everybody what was closed."""
        settings = load(self._path).settings
        if self._needs_keys and settings.is_open:
            raise InvalidArgument("it names no keys, and other machines reach this gateway: see allow_anyone")
        return settings

    # Its life

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self.service.start()
        gc.collect()
        gc.freeze()  # what was loaded stays: it need not be looked at again
        self._hear_signals()
        watching = asyncio.create_task(self._watch())
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await self.service.close()

    def _hear_signals(self) -> None:
        """The first SIGTERM only announces the end: who routes to us goes elsewhere before we stop listening."""
        if threading.current_thread() is not threading.main_thread():
            return
        loop, stops = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
        if not callable(stops):
            return

        def drain() -> None:
            if self.service.is_draining:
                stops(signal.SIGTERM, None)
                return
            log.info("gateway drains: it answers for %g s more, then it ends what is under way", self._drain_seconds)
            self.service.is_draining = True
            loop.call_later(self._drain_seconds, stops, signal.SIGTERM, None)

        loop.add_signal_handler(signal.SIGTERM, drain)
        loop.add_signal_handler(signal.SIGHUP, self._changed.set)

    async def _watch(self) -> None:
        """Read the file again where it changed, or on SIGHUP; end where the parent of several processes is gone."""
        parent = multiprocessing.parent_process()
        now = self._seen
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), WATCH_SECONDS)
            if parent is not None and not parent.is_alive():  # it was killed: who starts it again needs the port
                log.error("the process that started this one is gone: gateway ends")
                signal.raise_signal(signal.SIGTERM)
                parent = None
            before, now = now, _stamp(self._path)
            if self._changed.is_set() or (now != self._seen and now == before):  # half of a file may be one, too
                self._changed.clear()
                self._seen = now
                await self._read_again()

    async def _read_again(self) -> None:
        try:
            settings = await asyncio.to_thread(self._load)
            if settings.strategy != self.service.settings.strategy:
                log.warning("%s: another strategy is in force after a restart", self._path)
            await asyncio.to_thread(self.service.change_weights, settings)
            self.service.use(settings)
        except Exception as error:
            self._metrics.reloaded("refused")
            known = isinstance(error, InvalidArgument)
            log.error("%s was changed and is not taken: %s", self._path, error, exc_info=not known)
        else:
            self._metrics.reloaded("ok")
            log.info("%s was changed and is in force: %d providers", self._path, len(settings.providers))

    # What it answers itself

    async def _models(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        shown = [self._shown(model) for model in self.service.settings.apis]
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"], "has_more": False} if shown else {}
        return JSONResponse({"object": "list", "data": shown, **ends})

    async def _model(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        model = request.path_params["model"]
        if model not in self.service.settings.apis:
            return _error(404, "model_not_found", f"the model {model[:200]!r} does not exist here: see GET /v1/models")
        return JSONResponse(self._shown(model))

    def _shown(self, model: str) -> dict[str, Any]:
        """In the words of both APIs."""
        epoch = {"created": 0, "created_at": "1970-01-01T00:00:00Z"}
        return {
            "id": model,
            "object": "model",
            "type": "model",
            "display_name": model,
            "owned_by": "redis-router",
            **epoch,
        }

    def _refused(self, request: Request) -> Response | None:
        try:
            self.service.who(headers_of(request.scope))
        except Refusal as refusal:
            return _error(refusal.status, refusal.code, str(refusal))
        return None

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def _readyz(self, request: Request) -> Response:
        """Redis may be away: the router goes on without it."""
        drains = self.service.is_draining
        return JSONResponse(
            {"ready": not drains, "draining": drains, "redis_up": self.service.router.redis_up}, 503 if drains else 200
        )

    async def _show_metrics(self, request: Request) -> Response:
        return Response(generate_latest(scrape_registry()), media_type=CONTENT_TYPE_LATEST)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino


def _error(status: int, code: str, message: str) -> Response:
    return Response(error_body(OPENAI, status, code, message), status, media_type="application/json")


async def _not_here(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    text = f"there is no {request.method} {request.url.path[:100]} here: {', '.join(PATHS)}, /v1/models"
    return _error(status, "not_found" if status == 404 else "method_not_allowed", text)
