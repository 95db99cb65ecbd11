"""What the tests of the Aerospike stand-in share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from raw import Raw


@pytest.fixture
def connect() -> Iterator[Callable[[int], Raw]]:
    """Makes connections that are closed after the test."""
    opened: list[Raw] = []

    def make(port: int) -> Raw:
        opened.append(Raw(port))
        return opened[-1]

    yield make
    for connection in opened:
        connection.socket.close()
