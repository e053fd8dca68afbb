"""Providers that answer over real HTTP: one to probe, and one that speaks OpenAI's and Anthropic's."""

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = ["Hello", " from", " here"]


class Target:
    """A provider that answers GET with `status` over real HTTP; counts what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0
        self.headers: dict[str, str] = {}
        self.method = ""
        self.endless = False
        self.drips = False
        self._ended = threading.Event()
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                target.asked += 1
                target.method, target.headers = self.command, dict(self.headers)
                if target.drips:
                    self.drip()
                    return
                self.send_response(target.status)
                if not target.endless:
                    self.send_header("Content-Length", "0")
                self.end_headers()
                while target.endless and not target._ended.wait(0.02):
                    self.wfile.write(b"data: and more\n\n")

            def drip(self) -> None:
                with suppress(OSError):  # until the other side hangs up, or it is enough
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    while target.drips and not target._ended.wait(0.05):
                        self.wfile.write(b"X-Drip: 1\r\n")
                    self.wfile.write(b"Content-Length: 0\r\n\r\n")

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *args: Any) -> None:
                """Requests are no news."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/healthz"
        self.tcp = f"tcp://127.0.0.1:{self.server.server_port}"


@contextmanager
def _serving(server: ThreadingHTTPServer, ended: threading.Event) -> Iterator[None]:
    """Until the block ends; then whoever hangs hears of it by `ended`."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def target() -> Iterator[Target]:
    """A Target that serves until the block ends."""
    made = Target()
    with _serving(made.server, made._ended):
        yield made


class _Crowded(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


class LlmServer:
    """A provider that does what it is told to each request in turn.

    `faults` are taken one for each request; without one it does `always`, or answers well.

    A fault is a status, with headers and body; or "hang", "reset" (the connection is cut before an answer),
    "cut" (in the middle of a stream), "cut_early" and "overloaded_early" (after its first events, before its content),
    "overloaded" (an error inside a stream), "short" (it ends well, half way), "empty" (it ends before its content),
    "keep_alive" (comments for ever, and no content), "silent" (nothing after the headers), "slow" (pauses between the
    events), "paused" (half of a stream, and the rest when `goes_on` is set), "lingers" (all of it, and its end then),
    "garbage" (what says that it is JSON, or events, and is not).

    Where `tool` is set, the name of one and what it is given, a chat's question that offers tools is answered by a call
    to it, until its answer is there.

    `asked` has the bodies, `heads` the path and the headers of each request.
    """

    def __init__(self) -> None:
        self.faults: deque[Any] = deque()
        self.tool: tuple[str, dict[str, Any]] | None = None
        self.always: Any = None
        self.asked: list[dict[str, Any]] = []
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.ended = threading.Event()
        self.goes_on = threading.Event()
        self.server = _Crowded(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def _handler(server: LlmServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.asked.append(body)
            server.heads.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            fault = server.faults.popleft() if server.faults else server.always
            if fault == "hang":
                server.ended.wait(30)
                self.close_connection = True
            elif fault == "reset":
                self._reset()
            elif isinstance(fault, tuple):
                self._answer(*fault)
            elif body.get("stream"):
                with suppress(BrokenPipeError, ConnectionResetError):  # the client hangs up
                    self._stream(fault, *_events(self.path, _message(server, body)))
            elif fault == "silent":
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "9")
                self.end_headers()
                server.ended.wait(30)
                self.close_connection = True
            elif fault == "garbage":
                self._content(200, {}, b'{"choices": [{"mess')
            elif "responses" in self.path:
                self._answer(200, {}, _response("completed", "".join(ANSWER)))
            elif "chat" in self.path:
                self._answer(200, {}, openai_answer(_message(server, body)))
            else:
                self._answer(200, {}, _anthropic_answer())

        def _answer(self, status: int, headers: dict[str, str], body: Any = None) -> None:
            said = json.dumps(body or {"error": {"message": "as told", "type": "told"}})
            self._content(status, headers, said.encode())

        def _content(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self, fault: str | None, early: list[str], events: list[str]) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            if fault == "garbage":
                events = ["event: message_start\ndata: {<html>\n\n"]
            if fault in ("cut_early", "overloaded_early", "empty", "silent", "keep_alive"):
                events = early
            elif fault in ("cut", "overloaded", "short"):
                events = events[: (len(events) + 1) // 2]
            for number, event in enumerate(events, 1):
                self._chunk(event)
                if fault == "slow":
                    server.ended.wait(0.02)
                elif fault == "paused" and number == (len(events) + 1) // 2:
                    server.goes_on.wait(30)
            if fault in ("overloaded", "overloaded_early"):
                error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
                anthropic = "messages" in self.path
                self._chunk(f"event: error\ndata: {json.dumps(error if anthropic else {'error': error['error']})}\n\n")
            elif fault in ("cut", "cut_early"):
                self._reset()
                return
            elif fault == "silent":
                server.ended.wait(30)
            elif fault == "lingers":
                server.goes_on.wait(30)
            elif fault == "keep_alive":
                with suppress(OSError):  # until the client hangs up
                    while not server.ended.wait(0.02):
                        self._chunk(": still at it\n\n")
            with suppress(OSError):
                self.wfile.write(b"0\r\n\r\n")

        def _chunk(self, event: str) -> None:
            self.wfile.write(f"{len(event.encode()):x}\r\n{event}\r\n".encode())
            self.wfile.flush()

        def _reset(self) -> None:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()

        def log_message(self, *args: Any) -> None:
            """Requests are no news."""

    return Handler


def _message(server: LlmServer, body: dict[str, Any]) -> dict[str, Any]:
    """What a chat's question is answered with: text, or a call to the server's tool."""
    if server.tool is None or "tools" not in body or body["messages"][-1]["role"] == "tool":
        return {"role": "assistant", "content": "".join(ANSWER)}
    function = {"name": server.tool[0], "arguments": json.dumps(server.tool[1])}
    calls = [{"id": "t1", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _ending(message: dict[str, Any]) -> str:
    return "tool_calls" if "tool_calls" in message else "stop"


def openai_answer(message: dict[str, Any] | None = None) -> dict[str, Any]:
    message = message or {"role": "assistant", "content": "".join(ANSWER)}
    choice = {"index": 0, "message": message, "finish_reason": _ending(message)}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def _events(path: str, message: dict[str, Any] | None = None) -> tuple[list[str], list[str]]:
    """Of a whole stream: those before its content, and all."""
    if "chat" in path:
        return _openai_events(message or {})
    return _responses_events() if "responses" in path else _anthropic_events()


def _openai_events(message: dict[str, Any]) -> tuple[list[str], list[str]]:
    calls = [{"tool_calls": [{"index": 0, **call}]} for call in message.get("tool_calls", ())]
    deltas = [{"role": "assistant", "content": ""}, *(calls or ({"content": part} for part in ANSWER))]
    found = []
    for number, delta in enumerate(deltas, 1):
        ending = _ending(message) if number == len(deltas) else None
        choice = {"index": 0, "delta": delta, "finish_reason": ending}
        chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        found.append(f"data: {json.dumps(chunk)}\n\n")
    return found[:1], [*found, "data: [DONE]\n\n"]


def _response(status: str, text: str = "") -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "id": "o1", "role": "assistant", "status": status, "content": [content]}
    return {
        "id": "r1", "object": "response", "created_at": 1, "status": status, "model": "m", "error": None,
        "output": [message] if text else [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    }  # fmt: skip


def _responses_events() -> tuple[list[str], list[str]]:
    place = {"item_id": "o1", "output_index": 0, "content_index": 0, "logprobs": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response("in_progress")},
        {"type": "response.in_progress", "response": _response("in_progress")},
        *({"type": "response.output_text.delta", "delta": part, **place} for part in ANSWER),
        {"type": "response.completed", "response": _response("completed", "".join(ANSWER))},
    ]
    found = [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"
        for number, event in enumerate(events)
    ]
    return found[:2], found


def _anthropic_answer() -> dict[str, Any]:
    return {
        "id": "m1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "".join(ANSWER)}],
        "usage": {"input_tokens": 1, "output_tokens": 3},
    }  # fmt: skip


def _anthropic_events() -> tuple[list[str], list[str]]:
    message = {**_anthropic_answer(), "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    for part in ANSWER:
        events.append({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}})
    events += [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    found = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
    return found[:2], found


@contextmanager
def llm_server() -> Iterator[LlmServer]:
    """One that serves until the block ends."""
    made = LlmServer()
    with _serving(made.server, made.ended):
        yield made


class Receiver:
    """Of a webhook: keeps what was POSTed, each with its headers. `answers` are taken one for each, then it is 200.

    An answer is a status, with headers where it is a pair; or "hang", or "drip" (headers without an end).
    """

    def __init__(self) -> None:
        self.answers: deque[Any] = deque()
        self.always: Any = 200
        self.asked: list[tuple[dict[str, str], bytes]] = []
        self.ended = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _receiving(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/a-secret"

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in list(self.asked)]

    @property
    def changes(self) -> list[dict[str, Any]]:
        """Of all messages, also of those that were not answered well."""
        return [change for message in self.messages for change in message["changes"]]

    def told(self, *members: str) -> list[tuple[Any, ...]]:
        return [tuple(change[member] for member in members) for change in self.changes]


def _receiving(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.asked.append(({name.lower(): value for name, value in self.headers.items()}, body))
            answer = receiver.answers.popleft() if receiver.answers else receiver.always
            if answer == "hang":
                receiver.ended.wait(60)
                self.close_connection = True
                return
            if answer == "drip":
                with suppress(OSError):  # until the other side hangs up
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    while not receiver.ended.wait(0.05):
                        self.wfile.write(b"X-Drip: 1\r\n")
                return
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            with suppress(OSError):
                self.send_response(status)
                for name, value in {"content-length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

        def do_GET(self) -> None:
            receiver.asked.append(({}, b'{"changes": ["a redirect was followed"]}'))

        def log_message(self, *args: Any) -> None:
            """Requests are no news."""

    return Handler


@contextmanager
def receiver() -> Iterator[Receiver]:
    """One that serves until the block ends."""
    made = Receiver()
    with _serving(made.server, made.ended):
        yield made
