"""Names of headers in the file: which ones may go to providers."""

import re

from redis_router.gateway.config.findings import Part, named, shown
from redis_router.gateway.config.reading import Reading

CREDENTIALS = frozenset(("authorization", "x-api-key", "api-key"))
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OF_THE_CONNECTION = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_OF_THE_CLIENT = CREDENTIALS | {"cookie", "cookie2"}


def extra_headers(params: dict[str, Part], reading: Reading) -> dict[str, str]:
    """Of an entry, to send to its provider, in lower case; with `organization`."""
    found: dict[str, str] = {}
    given = reading.mapping(params["extra_headers"]) if "extra_headers" in params else {}
    for name, part in given.items():
        value = reading.text(part)
        if not _TOKEN.fullmatch(name):
            reading.findings.refuse(part, f"{named(name)!r} is no name of a header")
        elif name.lower() in _OF_THE_CONNECTION:
            reading.findings.refuse(part, "is of the connection, and not for the file: take it out")
        elif name.lower() in found:
            reading.findings.refuse(part, "is there twice, in capitals and small letters: keep one")
        elif value is not None and not value.isascii():
            reading.findings.refuse(part, f"is {shown(part)}: give ASCII")
        elif value is not None:
            found[name.lower()] = value
    if "organization" in params and (organization := reading.word(params["organization"])) is not None:
        found.setdefault("openai-organization", organization)
    return found


def forwarded(part: Part, reading: Reading) -> frozenset[str]:
    """`forward_headers`: names of the client's headers that providers get, in lower case."""
    found = set()
    for each in reading.sequence(part):
        name = reading.text(each)
        if name is None:
            continue
        if not _TOKEN.fullmatch(name):
            reading.findings.refuse(each, f"is {shown(each)}: give the name of a header, such as x-tenant")
        elif name.lower() in _OF_THE_CONNECTION:
            reading.findings.refuse(each, f"{name} is of the connection to the gateway: take it out")
        elif name.lower() in _OF_THE_CLIENT:
            reading.findings.refuse(each, f"{name} is the client's own, and goes to nobody: take it out")
        else:
            found.add(name.lower())
    return frozenset(found)
