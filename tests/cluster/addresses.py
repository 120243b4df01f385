"""Addresses of this machine for pods and services: 127.0.0.0/8 needs no setup on Linux."""

import random
import socket
from collections.abc import Iterator

LOWEST, HIGHEST = 2, 250
CLAIM_PORT = 47_000


class Subnet:
    """Some 250 addresses that no other test on this machine uses, until `close`."""

    def __init__(self) -> None:
        while True:
            self._prefix = f"127.{random.randint(LOWEST, HIGHEST)}.{random.randint(0, 255)}"
            self._claim = socket.socket()
            try:
                # Whoever listens here owns the rest; the kernel forgets it with the process.
                self._claim.bind((f"{self._prefix}.1", CLAIM_PORT))
                break
            except OSError:
                self._claim.close()
        self._free: Iterator[int] = iter(range(2, 255))

    def take(self) -> str:
        """An address that was not taken before."""
        return f"{self._prefix}.{next(self._free)}"

    def close(self) -> None:
        """Let others have it."""
        self._claim.close()
