"""Backup keys for tests, and a look for them where they must not be."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from dbops.backups.cipher import key_from_pem

GOLDEN = Path(__file__).parent / "golden" / "aerospike" / "asb" / "encrypted"


def pem_of(key: Any, form: PrivateFormat, protection: KeySerializationEncryption | None = None) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, form, protection or NoEncryption()))


def body_of(pem: bytes) -> bytes:
    return b"".join(pem.splitlines()[1:-1])


PRIVATE = rsa.generate_private_key(65537, 2048)
PEM = (GOLDEN / "test_key.pem").read_bytes()
OTHER_PEM = pem_of(PRIVATE, PrivateFormat.PKCS8)
KEY = key_from_pem(PEM, "aes256")


def leaks(text: str) -> bool:
    """Whether a text holds part of `PEM` or `OTHER_PEM`, or of what is made of them."""
    shown = [line.decode() for pem in (PEM, OTHER_PEM) for line in pem.splitlines()[1:-1]]
    for secret in (key_from_pem(pem, "aes256").secret for pem in (PEM, OTHER_PEM)):
        shown += [secret.hex()[:12], repr(secret[:12])[2:-1], base64.b64encode(secret).decode()[:12]]
    return any(part in text for part in shown)
