"""What a stream of events says, however its bytes are cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_router.integrations.httpx.events import LONGEST_LINE, Events
from tests.support.http import _events


def fed(*parts: bytes) -> Events:
    events = Events()
    for part in parts:
        events.feed(part)
    return events


def chunk(delta=None, finish=None, **more):
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n".encode()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
@given(data=st.data())
def test_where_its_bytes_are_cut_does_not_matter(path, data):
    """The content begins with the byte that ends its first line, and the answer ends with its last event."""
    early, whole = _events(path)
    sent = "".join(whole).encode()
    first = len("".join(early).encode())
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)), max_size=6)))
    events, at = Events(), 0
    for cut in [*cuts, len(sent)]:
        events.feed(sent[at:cut])
        at = cut
        if at <= first:
            assert not events.began
            assert not events.ended
    assert (events.began, events.ended, events.known, events.error) == (True, True, True, None)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "Hi"},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]},
        {"function_call": {"name": "f"}},
        {"reasoning_content": "Hm"},
        {"refusal": "No"},
    ],
)
def test_what_is_content(delta):
    assert fed(chunk({"role": "assistant", **delta})).began


@pytest.mark.parametrize(
    "sent",
    [
        b": a comment\n\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        chunk({"role": "assistant", "content": ""}),
        chunk({"role": "assistant", "content": None}),
        b'data: {"choices": [], "prompt_filter_results": []}\n\n',
        b'data: {"type": "response.created", "response": {"error": null}}\n\n',
        b'data: {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}\n\n',
        b"data:\n\n",
    ],
)
def test_what_is_no_content(sent):
    found = fed(sent)
    assert (found.began, found.ended, found.error) == (False, False, None)


@pytest.mark.parametrize(
    ("sent", "word"),
    [
        (b'data: {"error": {"type": "overloaded_error"}}\n\n', "overloaded_error"),
        (b'data: {"type": "error", "error": {"type": "overloaded_error"}}\n\n', "overloaded_error"),
        (b'data: {"type": "error", "code": "server_error", "message": "m"}\n\n', "error"),
        (b'data: {"type": "response.failed", "response": {"error": {"type": "server_error"}}}\n\n', "server_error"),
        (b'data: {"error": "no room"}\n\n', None),
    ],
)
@pytest.mark.parametrize("before", [b"", chunk({"content": "Hi"})])
def test_an_error_is_known_before_the_content_and_after(sent, word, before):
    found = fed(before + sent).error
    assert found is not None
    assert found.get("type") == word


def test_an_empty_answer_that_is_finished_has_begun():
    """A filter may leave nothing: it is an answer all the same."""
    found = fed(chunk({}, "content_filter"))
    assert (found.began, found.ended) == (True, True)


def test_a_word_in_the_text_is_no_error():
    """The marks only choose what is parsed."""
    assert fed(chunk({"content": "a"}), chunk({"content": 'say "error" and "finish_reason"'})).error is None


def test_a_line_without_an_end_is_not_kept():
    """An image in an event: it is content, and no more of it is held than the longest line."""
    events = fed(b"data: " + b"x" * LONGEST_LINE, b"x" * LONGEST_LINE, b"\n\n")
    assert events.began
    events.feed(b"data: [DONE]\n\n")
    assert events.ended


def test_carriage_returns_end_lines_too():
    found = fed(b'data: {"choices": [{"delta": {"content": "Hi"}}]}\r', b"\n\r\ndata: [DONE]\r\n\r\n")
    assert (found.began, found.ended) == (True, True)
