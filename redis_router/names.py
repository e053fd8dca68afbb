"""A name for a process that no other process in the fleet has."""

import os
import secrets
import socket


def unique_name() -> str:
    """Host, pid and four random bytes, fit for a Redis key: gateway-7f-4242-9c0ffee1."""
    host = (
        "".join(char if char.isalnum() or char in ".-" else "-" for char in socket.gethostname())[:32].strip(".-")
        or "host"
    )
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
