"""Ports of this machine: which is free, and who answers on one."""

import socket


def is_free(address: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(address: str, wanted: int, *, apart_from: int = 0) -> int:
    """Give `wanted`, or the next free port above it.

    :raises OSError: none of the next thousand is free, or the address is not this machine's.
    """
    for port in range(wanted, min(wanted + 1000, 65536)):
        if port != apart_from and is_free(address, port):
            return port
    raise OSError(f"No port from {wanted} on is free at {address}; nothing was started.")


def answers(address: str, port: int, *, timeout: float = 0.5) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((address, port), timeout=timeout):
            return True
    except OSError:
        return False
