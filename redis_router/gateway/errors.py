"""What the gateway itself says to a client, in the shape of errors that the client's SDK reads."""

import json

from redis_router.gateway.settings import ANTHROPIC

_OPENAI = {401: "authentication_error", 404: "not_found_error", 502: "server_error", 503: "server_error"}
_ANTHROPIC = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
}


NO_KEY, UNKNOWN_KEY = (
    f"{why}: send `Authorization: Bearer` and a key of this gateway"
    for why in ("there is no key", "this key is not known")
)


class Refusal(Exception):
    """A request that goes to no provider.

    code    one word, for programs
    closes  the connection is of no further use: what the client sends on it was not read
    """

    def __init__(self, status: int, code: str, message: str, *, closes: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.closes = closes

    def body(self, api: str) -> bytes:
        """As JSON."""
        return error_body(api, self.status, self.code, str(self))


def error_body(api: str, status: int, code: str, message: str) -> bytes:
    """The JSON of an error, as that API has it."""
    if api == ANTHROPIC:
        kind = _ANTHROPIC.get(status, "invalid_request_error")
        return json.dumps({"type": "error", "error": {"type": kind, "message": message, "code": code}}).encode()
    kind = _OPENAI.get(status, "invalid_request_error")
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def error_event(api: str, code: str, message: str) -> bytes:
    """The same at the end of a stream that broke: no `[DONE]` and no `message_stop` follows it.

    One for all of OpenAI's APIs: Responses has the words outside, chat completions inside of `error`.
    """
    body = error_body(api, 502, code, message)
    if api == ANTHROPIC:
        return b"event: error\ndata: " + body + b"\n\n"
    outside = {"type": "error", "code": code, "message": message, "param": None}
    return b"data: " + json.dumps(outside | json.loads(body)).encode() + b"\n\n"
