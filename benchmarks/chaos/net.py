"""What is done to the network of one process: it reaches the servers through proxies, and its DNS can hang."""

import json
import socket
import threading
import time
from typing import Any

HANG = 10.0
"""Seconds for which a name is looked up in vain: about what resolvers wait by default, all tries together."""

dns_hangs = threading.Event()


def reach_through(ports: str) -> None:
    """Connect to another port in place of a server's, as this JSON says: where it listens -> where the proxy does.

    Below the Redis client, because sentinels name the servers and know nothing of proxies.
    """
    by_proxy = {int(port): proxy for port, proxy in json.loads(ports).items()}
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connect_through(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[1] in by_proxy:
            address = (address[0], by_proxy[address[1]], *address[2:])
        connect(self, address)

    def look_up_or_hang(*args: Any, **options: Any) -> Any:
        if dns_hangs.is_set():
            time.sleep(HANG)  # to the end, also where the fault is over before
        return look_up(*args, **options)

    socket.socket.connect = connect_through  # type: ignore[method-assign]
    socket.getaddrinfo = look_up_or_hang
