"""The transports: `guard` for one provider behind a client, `failover` for several."""

from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from redis_router import InvalidArgument, Provider, Router
from redis_router.integrations.httpx.exchange import One, Several
from redis_router.integrations.httpx.library import library_of
from redis_router.integrations.httpx.ways import Asyncio, Threads, run

if TYPE_CHECKING:  # for clients of httpx and of httpx2 alike
    Base = Any
else:
    Base = object

MOST_CONNECTIONS, MOST_IDLE = 1000, 100
"""As the openai and anthropic SDKs have them."""


class Transport(Base):  # type: ignore[misc]
    """For `transport=` of a Client or AsyncClient of httpx or httpx2: whichever asks, it answers in kind."""

    def __init__(self, asks: One | Several, inner: Any) -> None:
        self._asks = asks
        self._inner = inner
        self._made: dict[type[Threads], Any] = {}

    def handle_request(self, request: Any) -> Any:
        """For a Client."""
        way = Threads(library_of(request))
        return run(self._asks.answer(way, self._through(way), request))

    async def handle_async_request(self, request: Any) -> Any:
        """For an AsyncClient."""
        way = Asyncio(library_of(request))
        return await self._asks.answer(way, self._through(way), request)

    def _through(self, way: Threads) -> Any:
        """The inner transport, made when it is needed."""
        if self._inner is not None:
            return self._inner
        made = self._made.get(type(way))
        if made is None:
            library = way.library
            kind = library.AsyncHTTPTransport if isinstance(way, Asyncio) else library.HTTPTransport
            limits = library.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_IDLE)
            made = self._made.setdefault(type(way), kind(limits=limits))
        return made

    def close(self) -> None:
        """End the connections of a Client."""
        inner = self._inner or self._made.pop(Threads, None)
        if inner is not None:
            inner.close()

    async def aclose(self) -> None:
        """End the connections of an AsyncClient."""
        inner = self._inner or self._made.pop(Asyncio, None)
        if inner is not None:
            await inner.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def guard(router: Router[Any], provider: str | Provider[Any], *, transport: Any = None) -> Transport:
    """A transport that records what the one provider behind a client does, and asks nobody while its circuit is open::

        client = AsyncOpenAI(http_client=DefaultAsyncHttpxClient(transport=guard(router, "openai")))

    Requests and responses stay as they are, but for the 503 that is answered while the circuit is open.

    provider   its name, or a Provider with a weight or a probe; registered here. It serves a model of its own name, for
               that no other provider is asked
    transport  the inner one; by default the library's own, with the connection limits of the SDKs

    Raises InvalidArgument.
    """
    found = provider if isinstance(provider, Provider) else Provider(provider, models=(provider,))
    if found.circuit_per_model or found.name not in found.models:
        raise InvalidArgument(
            f"provider {found.name!r} has one client and one circuit here: leave out circuit_per_model, and name"
            f" {found.name!r} among its models"
        )
    router.register_provider(found)
    return Transport(One(router, found.name), transport)


def failover(
    router: Router[Any],
    *,
    deadline: float | None = None,
    attempt_timeout: float | None = None,
    first_token_timeout: float | None = None,
    max_attempts: int | None = None,
    fallbacks: Any = None,
    wait: bool | None = None,
    model: str | None = None,
    base_url: str | None = None,
    transport: Any = None,
) -> Transport:
    """A transport that asks the router's providers, each with an `Upstream` as its client, one after the other::

        router.register_provider(Provider("azure", ("gpt-4o",), client=Upstream("https://…/openai/v1", key)))
        client = AsyncOpenAI(api_key="-", http_client=DefaultAsyncHttpxClient(transport=failover(router)))

    What the client's own base URL and key are does not matter. A request may have other options than these, in its
    extensions: `extensions={"redis_router": {"deadline": 5.0}}`.

    deadline, attempt_timeout, max_attempts, fallbacks, wait: as those of `Router.attempts`.

    first_token_timeout  the same, for requests that ask for a stream
    model      for requests that name none, such as uploads; without it they are answered with 400
    base_url   of the client, where it has another form than …/v1
    transport  the inner one; by default the library's own, with the connection limits of the SDKs

    Raises InvalidArgument.
    """
    options = {
        "deadline": deadline,
        "attempt_timeout": attempt_timeout,
        "first_token_timeout": first_token_timeout,
        "max_attempts": max_attempts,
        "fallbacks": fallbacks,
        "wait": wait,
    }
    given = {name: value for name, value in options.items() if value is not None}
    router.attempts(model or "*", **given)  # raises now what cannot be used
    base_path = None if base_url is None else urlsplit(base_url).path
    return Transport(Several(router, given, model, base_path), transport)
