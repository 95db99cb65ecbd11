"""Users and sessions: how clients log in (internal mode). Without users there is none, as in Community."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping

import bcrypt
from dbops_lab.aerospike.protocol import SECURITY, Refused, field, frame, read_fields

AUTHENTICATE, LOGIN = 0, 20
USER, CREDENTIAL, SESSION_TOKEN, SESSION_TTL = 0, 3, 5, 6
OK, NOT_SUPPORTED, UNKNOWN_COMMAND, BAD_FIELD = 0, 51, 54, 55
UNKNOWN_USER, BAD_CREDENTIAL, EXPIRED_SESSION, NOT_AUTHENTICATED = 60, 65, 66, 80
SESSION_SECONDS = 86_400
HEADER_SIZE = 16
SALT = b"$2a$10$7EqJtq98hPqEX7fNZaFWoO"  # every client hashes with this one; what is sent is the hash


def credential(password: str) -> bytes:
    return bcrypt.hashpw(password.encode()[:72], SALT)


def _reply(result: int, *fields: bytes) -> bytes:
    head = bytes((0, result, 0, len(fields))).ljust(HEADER_SIZE, b"\0")
    return frame(SECURITY, head + b"".join(fields))


class Security:
    def __init__(self, users: Mapping[str, str]) -> None:
        self._credentials = {name.encode(): credential(password) for name, password in users.items()}
        self._sessions: dict[bytes, bytes] = {}

    @property
    def is_on(self) -> bool:
        return bool(self._credentials)

    def answer(self, body: bytes) -> tuple[bytes, bool]:
        """The reply, and whether the connection is authenticated from now on."""
        if not self.is_on:
            return _reply(NOT_SUPPORTED), False
        try:
            command, fields = body[2], read_fields(body, HEADER_SIZE, body[3])[0]
        except (IndexError, Refused):
            return _reply(BAD_FIELD), False
        user = fields.get(USER, b"")
        if command == LOGIN:
            expected = self._credentials.get(user)
            if expected is None:
                return _reply(UNKNOWN_USER), False
            if not hmac.compare_digest(expected, fields.get(CREDENTIAL, b"")):
                return _reply(BAD_CREDENTIAL), False
            token = secrets.token_bytes(32)
            self._sessions[token] = user
            ttl = field(SESSION_TTL, SESSION_SECONDS.to_bytes(4, "big"))
            return _reply(OK, field(SESSION_TOKEN, token), ttl), True
        if command == AUTHENTICATE:
            if self._sessions.get(fields.get(SESSION_TOKEN, b"")) != user or not user:
                return _reply(EXPIRED_SESSION), False
            return _reply(OK), True
        return _reply(UNKNOWN_COMMAND), False
