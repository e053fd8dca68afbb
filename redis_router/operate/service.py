"""A request becomes an answer: the page, its JSON, and its stream. It knows neither WSGI nor ASGI.

Whatever it raises itself it answers; each call waits for Redis for as long as the client's time-outs allow.
"""

import json
from collections.abc import Collection, Iterable
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from redis_router.checks import check_name, check_number
from redis_router.errors import InvalidArgument, RouterError, UnknownProvider
from redis_router.operate import facts
from redis_router.operate.account import Account
from redis_router.operate.actions import Action, act, as_said
from redis_router.operate.feed import Feed
from redis_router.operate.guard import Guard
from redis_router.operate.http import Answer, Refused, Request, as_error, as_json
from redis_router.operate.stream import Places, Stream
from redis_router.overriding import ALL, Operator
from redis_router.runtime.log import log
from redis_router.runtime.names import process_name
from redis_router.store.opening import open_store, open_target

API = "/api/v1/"
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in ("page", "draw", "words")},
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
MOST_EVENTS = 1000
HOUR = 3600.0


class Service:
    """Any thread may ask.

    redis, namespace  as for Router
    token             who has it may act; without one nobody may
    open_to_look      may everybody look?
    hosts             names under which the page is reached, beside localhost, addresses, and names without a dot
    streams           so many may look on live at once; the others ask again and again
    """

    def __init__(
        self,
        redis: Any,
        namespace: str,
        *,
        token: str | None,
        open_to_look: bool,
        hosts: Collection[str] = (),
        streams: int = 8,
    ) -> None:
        self._opened, self._owns = open_target(redis), isinstance(redis, str)
        self._namespace = check_name("namespace", namespace)
        self._store = open_store(self._opened, namespace, process_name())
        self._guard = Guard(token, open_to_look, hosts)
        self._places = Places(streams)
        self.feed = Feed(self._store)

    def start(self) -> None:
        """Begin to follow the fleet, for the history."""
        self.feed.start()

    def close(self) -> None:
        """End the streams, and give the connection back."""
        self.feed.close()
        if self._owns:
            self._opened.close()

    def answer(self, request: Request) -> Answer | Stream:
        """Never raises. A stream is to be closed by whoever sends it."""
        try:
            return self._answer(request)
        except RouterError as error:
            return as_error(error)
        except Exception:
            log.exception("the page failed at %s %s", request.method, request.path[:100])
            return as_error(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "the page failed: its log says at what"))

    def _answer(self, request: Request) -> Answer | Stream:
        self._guard.check_host(request)
        if request.path in FILES:
            _check_method(request, "GET", "HEAD")
            return _file(request.path)
        word, _, rest = request.path.removeprefix(API).partition("/")
        if not request.path.startswith(API):
            raise _not_found(request)
        if word in ("actions", "login", "logout") and not rest:
            _check_method(request, "POST")
            return self._post(word, request)
        if (word in ("fleet", "events", "stream", "session") and not rest) or (word == "providers" and rest):
            _check_method(request, "GET", *(() if word == "stream" else ("HEAD",)))
            return self._session(request) if word == "session" else self._get(word, rest, request)
        raise _not_found(request)

    # Looking

    def _get(self, word: str, rest: str, request: Request) -> Answer | Stream:
        self._guard.check_may_look(request)
        if word == "stream":  # it is read by nobody else, but would take a place of those who look
            self._guard.check_same_site(request)
        self.feed.start()
        self.feed.watch()
        if word == "stream":
            return self._stream(request)
        if word == "events":
            return self._events(request)
        return self._provider(rest) if word == "providers" else self._fleet()

    def _fleet(self) -> Answer:
        try:
            self.feed.look()
        except RouterError as error:  # what was known last is told all the same
            return as_json(self.feed.fleet(), as_error(error).status)
        return as_json(self.feed.fleet())

    def _provider(self, name: str) -> Answer:
        snapshot = self.feed.look()
        if name in snapshot.unreadable:
            raise snapshot.unreadable[name]
        if name not in snapshot.records or name not in snapshot.specs:
            raise UnknownProvider.among(name, snapshot.records)
        health, spec = snapshot.records[name], snapshot.specs[name]
        account = Account.of(name, snapshot, self._store.surroundings(name), self.feed.replicas)
        return as_json(
            {
                "now_ms": snapshot.now_ms,
                **facts.provider(health, spec, snapshot.now_ms),
                "history": self.feed.history(name),
                "account": account.facts,
                "record": facts.record(health, spec),
                **self._logged([name], 7 * 24 * HOUR, 100),
            }
        )

    def _events(self, request: Request) -> Answer:
        name = request.asked("provider") or ALL
        since = _number(request, "since", HOUR, 1e9)
        most = round(_number(request, "most", 200, MOST_EVENTS))
        snapshot = self.feed.look()
        if name != ALL or snapshot.specs or snapshot.deregistered:
            records = self._operator().records(name, deregistered=True)
        else:
            records = []
        return as_json({"now_ms": snapshot.now_ms, **self._logged(records, since, most)})

    def _logged(self, records: Iterable[str], since: float, most: int) -> dict[str, Any]:
        """The newest first; or why they cannot be read."""
        since_ms, newest = max(0, round(self._store.leader()[0] - since * 1000)), list[facts.Json]()
        try:
            for name in records:  # a thousand full logs do not fit into memory: those that are too old are not read
                if len(newest) == most:
                    since_ms = newest[-1]["at_ms"]
                found = [facts.event(name, each) for each in reversed(self._store.events(name, since_ms, most))]
                newest = sorted(found + newest, key=lambda each: int(each["at_ms"]), reverse=True)[:most]
        except RouterError as error:
            return {"events": [], "events_error": str(error)}
        return {"events": newest, "events_error": None}

    def _stream(self, request: Request) -> Stream:
        if self.feed.number == 0:
            self._try_to_look()
        if not self._places.take():
            said = "as many look on live as may: ask for api/v1/fleet every few seconds instead"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, said, ("Retry-After", "5"))
        return Stream(self.feed, request.headers.get("last-event-id", ""), self._places)

    def _try_to_look(self) -> None:
        try:
            self.feed.look()
        except RouterError:
            return  # the stream says so

    def _session(self, request: Request) -> Answer:
        """What this browser may do, before it asks for anything else."""
        guard = self._guard
        csrf = guard.csrf(request)
        return as_json(
            {
                "can_log_in": guard.has_token,
                "may_look": guard.open_to_look or csrf is not None,
                "may_act": csrf is not None,
                "csrf": csrf,
            }
        )

    # Acting

    def _post(self, word: str, request: Request) -> Answer:
        if word == "logout":
            self._guard.check_same_site(request)
            return as_json({"may_act": False}, HTTPStatus.OK, ("Set-Cookie", self._guard.log_out(request)))
        if word == "login":
            said = _body(request)
            token = said.get("token") if isinstance(said, dict) else None
            cookie, csrf = self._guard.log_in(token, request)
            return as_json({"may_act": True, "csrf": csrf}, HTTPStatus.OK, ("Set-Cookie", cookie))
        self._guard.check_may_act(request)
        action = Action.of(_body(request))
        records = act(action, self._operator)
        log.info("page: %s %s by %s (%s)", action.action, action.provider, action.by, action.reason)
        self.feed.watch()
        snapshot = self.feed.look(0.0)
        found = [
            facts.provider(snapshot.records[name], snapshot.specs[name], snapshot.now_ms)
            for name in records
            if name in snapshot.records and name in snapshot.specs
        ]
        return as_json({"now_ms": snapshot.now_ms, **as_said(action), "providers": found})

    def _operator(self, by: str = "page") -> Operator:
        return Operator(self._opened, self._namespace, by=by)


def _check_method(request: Request, *allowed: str) -> None:
    if request.method not in allowed:
        raise Refused(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"{request.method[:20]} {request.path[:100]} is not possible: use {allowed[0]}",
            ("Allow", ", ".join(allowed)),
        )


def _not_found(request: Request) -> Refused:
    return Refused(HTTPStatus.NOT_FOUND, f"there is no {request.path[:100]}: try api/v1/fleet")


def _number(request: Request, name: str, default: float, most: float) -> float:
    said = request.asked(name)
    try:
        return default if said is None else check_number(name, float(said), least=1.0, most=most)
    except ValueError:
        raise InvalidArgument(f"{name} is {said!r}: give a number from 1 to {most:g}") from None


def _body(request: Request) -> Any:
    """JSON. Raises Refused: a form of another site cannot send it without being asked first."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the Content-Type is {kind[:60]!r}: send JSON, as application/json"
        )
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError):
        raise InvalidArgument("the body is no JSON") from None


@cache
def _file(path: str) -> Answer:
    name, kind = FILES[path]
    return Answer(HTTPStatus.OK, (files("redis_router.operate") / "static" / name).read_bytes(), kind)
