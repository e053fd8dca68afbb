"""A name for a process, for people who read logs."""

import os
import socket


def process_name() -> str:
    """Host and pid, fit for a Redis key: gateway-7f-4242."""
    host = (
        "".join(char if char.isalnum() or char in ".-" else "-" for char in socket.gethostname())[:32].strip(".-")
        or "host"
    )
    return f"{host}-{os.getpid()}"
