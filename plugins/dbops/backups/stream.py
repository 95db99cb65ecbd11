"""A stored object as a file: read once, hashed and counted on its way."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import cast

from dbops.backups.store import Store


class StoredStream(io.RawIOBase):
    """The bytes of an object, in the order in which they are stored.

    :param on_stored: told the size of each block that arrives.
    """

    def __init__(self, store: Store, key: str, on_stored: Callable[[int], None] = lambda size: None) -> None:
        self._chunks = store.read(key)
        self._on_stored = on_stored
        self._left = memoryview(b"")
        self._hash = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        if not self._left:
            chunk = next(self._chunks, b"")
            self._hash.update(chunk)
            self.size += len(chunk)
            self._on_stored(len(chunk))
            self._left = memoryview(chunk)
        size = min(len(view), len(self._left))
        view[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def sha256(self) -> str:
        """Hex, of the whole object: what nobody has read yet is read now."""
        block = bytearray(1 << 20)
        while self.readinto(block):
            pass
        return self._hash.hexdigest()
