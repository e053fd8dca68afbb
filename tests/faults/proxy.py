"""A TCP proxy between a client and a server that can go deaf, refuse, cut, delay, and lose replies."""

import random
import select
import socket
import threading
import time
from collections import deque
from contextlib import suppress


class Proxy:
    """Listens on 127.0.0.1 and a free port; what it does to the bytes is set from outside at any time.

    deaf     connections stand and are taken, nothing gets through: what a hung server or a lost route looks like
    refuse   new connections are closed at once
    delay    seconds added to each reply
    latency  seconds for the way there and for the way back, at least and at most: what is sent meanwhile does not wait
             for what was sent before, it only never overtakes it
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.hears = threading.Event()
        self.hears.set()
        self.refuse = False
        self.delay = 0.0
        self.latency = (0.0, 0.0)
        self.taken = 0
        self.lost = 0
        self._lose = b""
        self._connections: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def go_deaf(self) -> None:
        self.hears.clear()

    def hear(self) -> None:
        self.hears.set()

    def lose_the_reply_to(self, word: bytes) -> None:
        """The next request with this word reaches the server; its connection is cut before the reply comes back."""
        self._lose = word

    def cut(self) -> None:
        """End every connection."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        self.hears.set()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuse:
                client.close()
                continue
            self.taken += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._upstream))
        except OSError:
            client.close()
            return
        doomed = threading.Event()
        self._connections |= {client, server}
        there = threading.Thread(target=self._pump, args=(client, server, doomed, True), daemon=True)
        there.start()
        self._pump(server, client, doomed, False)
        there.join()
        self._connections -= {client, server}
        client.close()
        server.close()

    def _pump(self, source: socket.socket, sink: socket.socket, doomed: threading.Event, request: bool) -> None:
        on_the_way: deque[tuple[float, bytes]] = deque()
        with suppress(OSError):
            while True:
                wait = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
                if select.select([source], [], [], wait)[0]:
                    data = source.recv(65536)
                    self.hears.wait()
                    if request and self._lose and self._lose in data:
                        self._lose = b""
                        doomed.set()
                    if not data or (not request and doomed.is_set()):
                        self.lost += bool(data)
                        break
                    seconds = random.uniform(*self.latency) + (0.0 if request else self.delay)
                    on_the_way.append((time.monotonic() + seconds, data))
                while on_the_way and on_the_way[0][0] <= time.monotonic():
                    sink.sendall(on_the_way.popleft()[1])
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
