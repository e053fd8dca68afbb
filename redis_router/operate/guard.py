"""Who may look at the page, and who may act.

A token stands for a person on call. A program sends it with each request, as a bearer token. A browser sends it once
and gets a session: a cookie that no script can read and no other site can make it send, and a word against forged
requests that goes with each action. A session is signed with the token and kept nowhere, so it holds on every worker
with that token, and over their restarts. Another token ends it.
"""

import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Collection
from http import HTTPStatus

from redis_router.errors import InvalidArgument
from redis_router.operate.http import Refused, Request

COOKIE = "redis_router_page"
SESSION_SECONDS = 12 * 3600
LEAST_TOKEN = 16
"""Characters of a token."""
TRIES, SECONDS_A_TRY = 10, 2.0
"""So many wrong tokens of one address are answered at once; then one in so many seconds."""
MOST_PEERS = 1000
MOST_COOKIES = 8
"""Of our name that are looked at."""


def check_token(token: str | None, told_as: str) -> str | None:
    """A token that nobody guesses; None for none. Raises InvalidArgument."""
    if token is None:
        return None
    if not isinstance(token, str) or len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable():
        shown = f"{len(token)} characters" if isinstance(token, str) else type(token).__name__
        raise InvalidArgument(
            f"{told_as} is not usable ({shown}): give at least {LEAST_TOKEN} printable ASCII characters, such as"
            " `openssl rand -hex 32` makes"
        )
    return token


class Guard:
    """Any thread may ask.

    token          without one nobody may act
    open_to_look   may everybody look? Else it takes the token, too
    hosts          names under which the page is reached, beside localhost, addresses, and names without a dot
    """

    def __init__(self, token: str | None, open_to_look: bool, hosts: Collection[str] = ()) -> None:
        self._token = token
        self.open_to_look = open_to_look
        self._hosts = {host.lower() for host in hosts}
        self._key = hmac.digest((token or secrets.token_hex(32)).encode(), b"redis_router page session 1", "sha256")
        self._tries = _Tries()

    @property
    def has_token(self) -> bool:
        """Can anybody act here?"""
        return self._token is not None

    # Looking

    def check_host(self, request: Request) -> None:
        """A page of another site that has its name point here reads nothing. Raises Refused.

        Where looking takes a login that is no matter: the session is of the name under which somebody logged in.
        """
        if not self.open_to_look:
            return
        host = _host_of(request.headers.get("host", ""))
        if host in self._hosts or "." not in host or host.endswith(".localhost") or _is_address(host):
            return
        raise Refused(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"the host is {host[:100]!r}, which is not expected here: open the page as localhost or by its address; or"
            " name the host: --page-host for a worker, hosts= for operate_app",
        )

    def check_may_look(self, request: Request) -> None:
        """Raises Refused."""
        if not self.open_to_look and not self.knows(request):
            raise Refused(HTTPStatus.UNAUTHORIZED, "looking takes the token: log in, or send it as a bearer token")

    def knows(self, request: Request) -> bool:
        """Does it come with the token, or of a session? A wrong token counts as a try. Raises Refused."""
        bearer = _bearer(request)
        return self._is_token(bearer, request) if bearer is not None else bool(self._session(request))

    # Acting

    def check_may_act(self, request: Request) -> None:
        """Raises Refused."""
        if self._token is None:
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "no actions here, as no token is configured: start the worker with --page-token-env NAME, or give"
                " operate_app token=; `redis-router drain` and its like need none",
            )
        bearer = _bearer(request)
        if bearer is not None:
            if not self._is_token(bearer, request):
                raise Refused(HTTPStatus.UNAUTHORIZED, "the token is wrong")
            return
        session = self._session(request)
        if not session:
            raise Refused(HTTPStatus.UNAUTHORIZED, "acting takes the token: log in, or send it as a bearer token")
        self.check_same_site(request)
        if not _same(request.headers.get("x-csrf-token", ""), self._csrf(session)):
            raise Refused(
                HTTPStatus.FORBIDDEN, "the X-CSRF-Token is missing or wrong: send the csrf of GET api/v1/session"
            )

    def check_same_site(self, request: Request) -> None:
        """What a browser says of where a request comes from. Raises Refused."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if site is None and origin is not None:  # an older browser: behind a proxy the host must be the one asked for
            site = "same-origin" if origin.partition("://")[2] == request.headers.get("host", "") else "cross-site"
        if site not in (None, "same-origin", "none"):
            raise Refused(HTTPStatus.FORBIDDEN, f"this request comes from another site, {str(origin)[:100]!r}")

    # Sessions

    def log_in(self, token: object, request: Request) -> tuple[str, str]:
        """The cookie, as it is set, and the word that goes with each action. Raises Refused."""
        if self._token is None:
            self.check_may_act(request)
        self.check_same_site(request)
        if not isinstance(token, str) or not self._is_token(token, request):
            raise Refused(HTTPStatus.UNAUTHORIZED, "the token is wrong")
        session = f"{int(time.time()) + SESSION_SECONDS}.{secrets.token_hex(16)}"
        session = f"{session}.{self._signed(session)}"
        return _cookie(session, SESSION_SECONDS, request), self._csrf(session)

    def log_out(self, request: Request) -> str:
        """The cookie that ends the session in this browser."""
        return _cookie("", 0, request)

    def csrf(self, request: Request) -> str | None:
        """The word that goes with each action of this session; None without one."""
        session = self._session(request)
        return self._csrf(session) if session else None

    def _session(self, request: Request) -> str:
        """One that is ours and not over; '' for none.

        What else is served at this host, at any port, sets cookies that come here, too: of any form, and of our name.
        """
        found = (each.partition("=") for each in request.headers.get("cookie", "").split(";"))
        sessions = [value.strip() for name, _, value in found if name.strip() == COOKIE]
        return next(filter(self._is_ours, sessions[:MOST_COOKIES]), "")

    def _is_ours(self, session: str) -> bool:
        said, _, signature = session.rpartition(".")
        if self._token is None or not _same(signature, self._signed(said)):
            return False
        return int(said.partition(".")[0]) > time.time()

    def _signed(self, said: str) -> str:
        return hmac.digest(self._key, b"session " + said.encode(), "sha256").hex()

    def _csrf(self, session: str) -> str:
        return hmac.digest(self._key, b"csrf " + session.encode(), "sha256").hex()

    def _is_token(self, given: str, request: Request) -> bool:
        self._tries.check(request.peer)
        is_right = self._token is not None and _same(given, self._token)
        if not is_right:
            self._tries.wrong(request.peer)
        return is_right


class _Tries:
    """Wrong tokens, by the address that they came from."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._spent: dict[str, float] = {}
        """By address: the moment at which all its tries are there again."""

    def check(self, peer: str) -> None:
        """Raises Refused where this address has none left; a right token does not help it then."""
        wait = self._spent.get(_net(peer), 0.0) - time.monotonic() - (TRIES - 1) * SECONDS_A_TRY
        if wait > 0:
            after = ("Retry-After", str(int(wait) + 1))
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, f"too many wrong tokens: try again in {int(wait) + 1} s", after)

    def wrong(self, peer: str) -> None:
        """One is spent."""
        with self._lock:
            net, now = _net(peer), time.monotonic()
            self._spent[net] = max(self._spent.pop(net, now), now) + SECONDS_A_TRY
            if len(self._spent) > MOST_PEERS:
                del self._spent[next(iter(self._spent))]


def _same(given: str, right: str) -> bool:
    """Takes as long whatever is given."""
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def _bearer(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _cookie(session: str, seconds: int, request: Request) -> str:
    """Without a path: it goes to where it was set, `api/v1/`, whatever a proxy puts before that."""
    secure = "; Secure" if request.secure else ""
    return f"{COOKIE}={session}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


def _host_of(header: str) -> str:
    """Without the port, in lower case."""
    host = header.lower()
    return host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _net(peer: str) -> str:
    """Whoever has one IPv6 address has many: theirs count as one. A socket of both kinds has IPv4 ones as `::ffff:`."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer[:64]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
