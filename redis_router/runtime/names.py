"""Names for processes and people, for those who read logs."""

import getpass
import os
import re
import socket


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:32].strip(".-") or "host"


def process_name() -> str:
    """Host and pid, fit for a Redis key: gateway-7f-4242."""
    return f"{_host()}-{os.getpid()}"


def operator_name() -> str:
    """Who sits at this machine: alice@ops-1."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in some containers
        user = "somebody"
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', user)[:20].strip('-_') or 'somebody'}@{_host()}"
