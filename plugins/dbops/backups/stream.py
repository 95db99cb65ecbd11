"""Stored bytes as files: an object of a restore point is read once, decrypted if need be, and hashed on its way."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import cast

from dbops.backups.catalog import object_key
from dbops.backups.cipher import Keys, open_object
from dbops.backups.manifest import Manifest, ObjectEntry
from dbops.backups.store import Store


class Blocks(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = memoryview(block)
        size = min(len(view), len(self._left))
        view[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


class StoredStream(Blocks):
    """The bytes of an object in their order.

    :param keys: None when the object cannot be decrypted here: then the file is what is stored.
    :param on_stored: told the size of each stored block that arrives; may raise to stop.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        entry: ObjectEntry,
        keys: Keys | None,
        on_stored: Callable[[int], None] = lambda size: None,
    ) -> None:
        super().__init__(
            map(self._count, store.read(object_key(manifest, entry.name)))
            if keys is None
            else open_object(store, manifest, entry, keys, self._count)
        )
        self._on_stored = on_stored
        self._hash = hashlib.sha256()
        self.size = 0

    def _count(self, stored: bytes) -> bytes:
        self._hash.update(stored)
        self.size += len(stored)
        self._on_stored(len(stored))
        return stored

    def sha256(self) -> str:
        """Hex, of the whole object: what nobody has read yet is read now."""
        block = bytearray(1 << 20)
        while self.readinto(block):
            pass
        return self._hash.hexdigest()
