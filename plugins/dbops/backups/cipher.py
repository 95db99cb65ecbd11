"""Encryption of backup objects, in asbackup's own framing, so that either program reads the other's files.

After compression the whole file is encrypted: 16 bytes, a random number N under AES-ECB, then the text under AES-CTR
that counts from N + 1 (128 bits, big-endian, wrapping). The AES key is the SHA-256 of the RSA private key's PKCS#1 DER,
of which AES-128 takes the first half. Any byte can be decrypted by itself, and nothing tells that one was changed: the
manifest's SHA-256, which is that of the stored bytes, has to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from dbops.backups.manifest import ENCRYPTION_HEADER, Encryption, EncryptionMode, Manifest, ObjectEntry
from dbops.backups.store import ObjectWriter, Store, StoredObject
from dbops.errors import ConfigurationError, FinalError

BLOCK = 1 << 18  # what is encrypted at once: it stays in the cache
MODES: tuple[EncryptionMode, ...] = ("aes128", "aes256")

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_STARTS = (b"Version ", b"\x28\xb5\x2f\xfd")  # what a backup file begins with: text, zstd
_TEXT = 8


class KeyUnusable(ConfigurationError):
    """The backup key cannot be had, or is none that can be used."""


class KeyMissing(FinalError):
    """Something is encrypted, and there is no key at all here."""


class WrongKey(FinalError):
    """Something is encrypted with another key than those that are known here."""


class NotEncrypted(FinalError):
    """An object is too short to be encrypted: it was cut, or it is something else."""


@dataclass(frozen=True, repr=False)
class Key:
    """A key for one mode. Its fingerprint tells it from others and says nothing about it."""

    mode: EncryptionMode
    secret: bytes

    @property
    def fingerprint(self) -> str:
        """16 hex digits, another for each mode of the same private key."""
        return hashlib.sha256(b"dbops backup key " + self.mode.encode() + b"\0" + self.secret).hexdigest()[:16]

    @property
    def encryption(self) -> Encryption:
        """What a manifest says about objects that are encrypted with this key."""
        return Encryption(mode=self.mode, key_fingerprint=self.fingerprint)

    def __str__(self) -> str:
        return f"{self.mode} key {self.fingerprint}"

    def __repr__(self) -> str:
        return f"<{self}>"


def key_from_pem(pem: bytes, mode: EncryptionMode) -> Key:
    """The key that asbackup makes of a private key file (`--encryption-key-file`).

    Also reads a PEM whose line ends were lost or written as `\\n`, as forms and environments do to it, and its bare
    body, as `--encryption-key-env` takes it.

    :raises KeyUnusable: it is no unencrypted RSA private key; the message repeats nothing of it.
    """
    if mode not in MODES:
        raise KeyUnusable(f"encryption mode {mode!r} is not known; write {' or '.join(MODES)}")
    return _keys_from(pem)[mode]


def _keys_from(pem: bytes) -> dict[EncryptionMode, Key]:
    label, der = _der(pem)
    try:
        key = load_der_private_key(der, password=None)
    except TypeError:
        raise KeyUnusable(_ENCRYPTED) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyUnusable(f"{label} holds no private key that can be read; {_WANTED}") from None
    if not isinstance(key, RSAPrivateKey):
        raise KeyUnusable(f"{label} holds a key that is not RSA; {_WANTED}")
    # The file may hold either form; what is hashed is always this one.
    pkcs1 = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    secret = hashlib.sha256(pkcs1).digest()
    return {"aes128": Key("aes128", secret[:16]), "aes256": Key("aes256", secret)}


_WANTED = "an RSA private key in PEM form is wanted: `openssl genrsa -out key.pem 4096`"
_ENCRYPTED = (
    "the PEM file is protected by a passphrase; store it without one (`openssl rsa -in key.pem -out plain.pem`), in a "
    "place that only this service can read"
)


def _der(pem: bytes) -> tuple[str, bytes]:
    text = pem.replace(b"\\r", b"").replace(b"\\n", b"\n").strip()
    blocks = [(found[1].decode(), found[2]) for found in _PEM.finditer(text)]
    if not blocks and b"-----" in text:
        raise KeyUnusable(f"the PEM file is not whole: its BEGIN or END line is missing; {_WANTED}")
    name, body = next((block for block in blocks if block[0].endswith("PRIVATE KEY")), ("", text))
    if blocks and not name:
        raise KeyUnusable(f"the PEM file holds a {blocks[0][0]} and no private key; {_WANTED}")
    if name == "ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in body.partition(b":")[2]:
        raise KeyUnusable(_ENCRYPTED)
    label = f"the PEM file ({name})" if name else "the text without BEGIN and END lines"
    try:
        return label, base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise KeyUnusable(f"{label} is not base64; {_WANTED}") from None


# --- keys that are known here -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """The key that new backups are encrypted with, and all that older ones may be."""

    current: Key | None = None
    known: tuple[Key, ...] = ()

    @classmethod
    def of(cls, mode: EncryptionMode, pem: bytes, older: Sequence[bytes] = ()) -> Keys:
        """New backups: this mode of this key. Older ones: either mode of any of the keys.

        :raises KeyUnusable: one of them is no key.
        """
        found = [_keys_from(text) for text in (pem, *older)]
        return cls(found[0][mode], tuple(key for keys in found for key in keys.values()))

    @property
    def encryption(self) -> Encryption | None:
        """What a manifest says about what is encrypted now; None when nothing is."""
        return self.current.encryption if self.current else None

    def find(self, encryption: Encryption | None, what: str = "the backup") -> Key | None:
        """The key to something; None when it is not encrypted.

        :param what: named in the error.
        :raises KeyMissing: it is encrypted and no key is known here.
        :raises WrongKey: it is encrypted with a key that is none of those known here.
        """
        if encryption is None:
            return None
        wanted = f"{encryption.mode} key {encryption.key_fingerprint}"
        if not self.known:
            raise KeyMissing(
                f"{what} is encrypted with {wanted} and no key is configured here; name its connection in "
                "`storage.encryption` of the platform file"
            )
        for key in self.known:
            if key.encryption == encryption:
                return key
        there = ", ".join(dict.fromkeys(str(key) for key in self.known if key.mode == encryption.mode))
        raise WrongKey(
            f"wrong key: {what} is encrypted with {wanted}, and the keys known here are {there}; add the connection "
            "that holds the right one to `storage.encryption.older_keys`"
        )


NO_KEYS = Keys()


# --- writing ------------------------------------------------------------------------------------------------


class EncryptingWriter(ObjectWriter):
    """Encrypts on the way into another writer. Size and SHA-256 of the object are those of its encrypted bytes."""

    def __init__(self, writer: ObjectWriter, key: Key) -> None:
        self._writer = writer
        start = os.urandom(ENCRYPTION_HEADER)
        self._encryptor: Any = _ctr(key, start, 0).encryptor()
        self._buffer = bytearray(BLOCK + ENCRYPTION_HEADER - 1)  # update_into wants room for one more block
        self._open = True
        try:
            writer.write(_block(key).encryptor().update(start))
        except BaseException:
            self.abort()
            raise

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._open:
            raise ValueError("write after close or abort")
        view = memoryview(data).cast("B")
        out = memoryview(self._buffer)
        for at in range(0, len(view), BLOCK):
            size = self._encryptor.update_into(view[at : at + BLOCK], out)
            self._writer.write(out[:size])

    def close(self) -> StoredObject:
        self._open = False
        return self._writer.close()

    def abort(self) -> None:
        self._open = False
        self._writer.abort()


def open_writer(store: Store, name: str, key: Key | None) -> ObjectWriter:
    """A new object of a store, encrypted when there is a key."""
    writer = store.open_writer(name)
    return writer if key is None else EncryptingWriter(writer, key)


def _block(key: Key) -> Cipher[modes.ECB]:
    return Cipher(AES(key.secret), modes.ECB())  # noqa: S305 - one random block, which is what the format says


def _ctr(key: Key, start: bytes, offset: int) -> Cipher[modes.CTR]:
    """The stream from the block that holds byte `offset` of the text."""
    counter = int.from_bytes(start, "big") + 1 + offset // ENCRYPTION_HEADER
    return Cipher(AES(key.secret), modes.CTR((counter % (1 << 128)).to_bytes(ENCRYPTION_HEADER, "big")))


# --- reading ------------------------------------------------------------------------------------------------


def decrypt(chunks: Iterator[bytes], key: Key, source: str = "the file") -> Iterator[bytes]:
    """The text of an encrypted file, block by block: that of our own backups and of asbackup's.

    A wrong key gives noise, not an error: see `check_start`, and `Keys.find` for backups with a manifest.

    :raises NotEncrypted: the file is shorter than its header; while iterating.
    """
    head = b""
    while len(head) < ENCRYPTION_HEADER:
        chunk = next(chunks, None)
        if chunk is None:
            raise _too_short(source, len(head))
        head += chunk
    start = _block(key).decryptor().update(head[:ENCRYPTION_HEADER])
    decryptor: Any = _ctr(key, start, 0).decryptor()
    for chunk in chain((head[ENCRYPTION_HEADER:],), chunks):
        if chunk:
            yield decryptor.update(chunk)


def _too_short(source: str, size: int) -> NotEncrypted:
    return NotEncrypted(
        f"{source}: has {size} bytes, and an encrypted file begins with {ENCRYPTION_HEADER} that are none of its text: "
        "it was cut off, or is not encrypted"
    )


def is_backup(head: bytes) -> bool:
    """Whether a file that begins so is `.asb` text or zstd, neither encrypted nor something else."""
    return head.startswith(_STARTS)


def check_start(chunks: Iterator[bytes], source: str, key: Key | None) -> Iterator[bytes]:
    """The same text, after a look at its first bytes: for files that have no manifest to name their key.

    :raises WrongKey: it is neither `.asb` nor zstd, so the key is wrong, or none was given and the file is encrypted;
        while iterating.
    """
    head = b""
    while len(head) < _TEXT and (chunk := next(chunks, None)) is not None:
        head += chunk
    if not is_backup(head):
        found = (
            f"is no backup file after decryption with the {key}: the key or its mode is wrong, or the file is not "
            "encrypted"
            if key
            else "is neither .asb text nor zstd: it may be encrypted, then name mode and key"
        )
        raise WrongKey(f"{source}: {found}")
    yield head
    yield from chunks


def open_object(
    store: Store,
    manifest: Manifest,
    entry: ObjectEntry,
    keys: Keys = NO_KEYS,
    on_stored: Callable[[bytes], object] | None = None,
) -> Iterator[bytes]:
    """An object of a backup as it was before encryption (`.asb`, zstd or digests), block by block.

    :param on_stored: sees every stored byte in order, to hash them; all of them only when the iterator ends.
    :raises KeyMissing, WrongKey: at once; nothing was read.
    :raises NotEncrypted, NotFound, StoreError: while iterating.
    """
    name = manifest.prefix + entry.name
    source = f"{store.url}/{name}"
    key = keys.find(manifest.encryption, source)
    chunks = store.read(name)
    if on_stored:
        chunks = _seen(chunks, on_stored)
    return chunks if key is None else decrypt(chunks, key, source)


def _seen(chunks: Iterator[bytes], on_stored: Callable[[bytes], object]) -> Iterator[bytes]:
    for chunk in chunks:
        on_stored(chunk)
        yield chunk


class Ranges(Protocol):
    """Where a range of an object's text can be read: a store, or `Decrypted`."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]: ...


class Decrypted:
    """Ranges of encrypted objects, in bytes of their text. The header of the object last read is remembered."""

    def __init__(self, store: Store, key: Key) -> None:
        self._store, self._key = store, key
        self._name, self._start = "", b""

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """As of a store.

        :raises NotEncrypted: the object is shorter than its header.
        """
        if self._name != key:
            head = b"".join(self._store.read(key, 0, ENCRYPTION_HEADER))
            if len(head) < ENCRYPTION_HEADER:
                raise _too_short(f"{self._store.url}/{key}", len(head))
            self._name, self._start = key, _block(self._key).decryptor().update(head)
        decryptor = _ctr(self._key, self._start, start).decryptor()
        decryptor.update(bytes(start % ENCRYPTION_HEADER))
        for chunk in self._store.read(key, ENCRYPTION_HEADER + start, length):
            yield decryptor.update(chunk)


def ranges(store: Store, key: Key | None) -> Ranges:
    """A store whose objects are read as text: the store itself when they are not encrypted."""
    return store if key is None else Decrypted(store, key)
