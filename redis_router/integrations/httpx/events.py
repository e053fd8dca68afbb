"""What a stream of server-sent events says: where its content begins, whether its answer ended, whether it failed.

Three vocabularies are known. OpenAI's chat completions: chunks with `choices`, then `[DONE]`. OpenAI's Responses:
`response.created` … `response.completed`. Anthropic's messages: `message_start` … `message_stop`. In any other, the
first event is taken for content.
"""

import json
import re
from typing import Any

LONGEST_LINE = 1 << 20
"""Bytes of a line that is looked at; of a longer one, such as an image, only that it is there."""
_PREAMBLE = frozenset(
    (
        "message_start", "content_block_start", "ping", "keepalive",
        "response.created", "response.queued", "response.in_progress",
        "response.output_item.added", "response.content_part.added",
    )
)  # fmt: skip
_ENDS = frozenset(("message_stop", "response.completed", "response.incomplete"))
_ANSWERS = ("response.", "message_", "content_block_")
_SAYS_MORE = re.compile(
    rb'\[DONE\]|"error"|"finish_reason"\s*:\s*"|"message_stop"|"response\.(?:completed|failed|incomplete)"'
)
"""Once the content began, only what has one of these can say something new. In a text, quotes are escaped."""


class Events:
    """Reads along; what it is fed is passed on by somebody else.

    began  some content came
    ended  the answer came to the end that its vocabulary has
    known  it is a vocabulary with an end, so that a stream without one broke off
    error  what an error event said
    """

    __slots__ = ("_line", "_skips", "began", "ended", "error", "known")

    def __init__(self) -> None:
        self.began = self.ended = self.known = False
        self.error: dict[str, Any] | None = None
        self._line = b""
        self._skips = False

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream, cut anywhere. Raises ValueError for an event that is no JSON,
        RecursionError for one that is too deep."""
        data = self._line + data
        if self.began and not self._skips and _SAYS_MORE.search(data) is None:
            self._line = data[max(data.rfind(b"\n"), data.rfind(b"\r")) + 1 :]
        else:
            *lines, self._line = data.replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                if self._skips:
                    self._skips = False
                elif line.startswith(b"data:"):
                    self._take(line[5:].strip())
        if len(self._line) > LONGEST_LINE:
            self.began = self._skips = True
            self._line = b""

    def _take(self, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            self.ended = True
        elif data and (not self.began or _SAYS_MORE.search(data)):
            event = json.loads(data)
            if not isinstance(event, dict):
                self.began = True
            elif (error := _error_of(event)) is not None:
                self.error = error
            elif isinstance(kind := event.get("type"), str):
                self._take_typed(kind)
            elif isinstance(choices := event.get("choices"), list):
                self._take_choices(choices)
            else:
                self.began = True

    def _take_typed(self, kind: str) -> None:
        self.known = self.known or kind.startswith(_ANSWERS)
        self.ended = self.ended or kind in _ENDS
        self.began = self.began or kind not in _PREAMBLE

    def _take_choices(self, choices: list[Any]) -> None:
        self.known = self.known or bool(choices)  # without any: what a filter found, or the usage
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            said = {name: value for name, value in delta.items() if name != "role"} if isinstance(delta, dict) else {}
            self.ended = self.ended or bool(choice.get("finish_reason"))
            self.began = self.began or self.ended or bool(choice.get("text")) or any(said.values())


def _error_of(event: dict[str, Any]) -> dict[str, Any] | None:
    """The error that an event carries, with the names that openai and anthropic give it."""
    if event.get("type") == "response.failed" and isinstance(response := event.get("response"), dict):
        event = {"error": response.get("error") or {"code": "failed"}}
    error = event.get("error")
    if error:
        return error if isinstance(error, dict) else {"message": str(error)}
    return event if event.get("type") == "error" else None
