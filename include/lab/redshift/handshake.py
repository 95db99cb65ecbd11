"""How a connection begins: what the Redshift driver says that PostgreSQL would not understand is left out."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from dbops_lab.redshift import wire
from dbops_lab.redshift.errors import BackendError
from dbops_lab.redshift.translate import translated_payload
from dbops_lab.redshift.wire import Wire, text

if TYPE_CHECKING:
    from dbops_lab.redshift.proxy import Proxy

SERVER_VERSION = text("server_version") + text("8.0.2")
PASSED = ("user", "database", "application_name")
"""Start-up parameters that PostgreSQL knows."""
SASL = 10
ASKED = (3, 5, SASL, 11)
"""Kinds of authentication that want an answer."""


class Opened(NamedTuple):
    """A connection whose user PostgreSQL has accepted."""

    user: str
    database: str
    application: str
    pid: int
    key: bytes
    upstream: Wire


def greet(client: Wire, proxy: Proxy) -> Opened | None:
    """Until the client may ask; None when it only came to cancel, or was refused and told so."""
    while True:
        packet = client.read_startup()
        version = wire.INT32.unpack_from(packet)[0]
        if version in (wire.SSL, wire.GSS):
            client.write_raw(b"N")
            client.flush()
        elif version == wire.CANCEL:
            proxy.cancel(*struct.unpack_from("!i4s", packet, 4))
            return None
        else:
            break
    words = packet[4:].split(b"\0")
    asked = {words[i].decode(): words[i + 1].decode() for i in range(0, len(words) - 2, 2) if words[i]}
    database = asked.get("database", asked.get("user", ""))
    if database != proxy.database:
        refuse(client, BackendError("3D000", f'database "{database}" does not exist'))
        return None
    upstream = Wire(proxy.connect_postgres())
    passed = {name: value for name, value in asked.items() if name in PASSED}
    upstream.write_raw(wire.startup(passed | {"database": proxy.postgres_database}))
    upstream.flush()
    found = _authenticate(client, upstream, is_redshift_driver="client_protocol_version" in asked)
    if found is None:
        upstream.close()
        return None
    return Opened(asked.get("user", ""), database, asked.get("application_name", ""), *found, upstream)


def refuse(client: Wire, problem: BackendError) -> None:
    """The last that the client hears."""
    client.write(b"E", wire.error(problem.code, problem.message, severity="FATAL"))
    client.flush()


def _authenticate(client: Wire, upstream: Wire, *, is_redshift_driver: bool) -> tuple[int, bytes] | None:
    """Pass the questions to the client and its answers to the server; what the server calls the session."""
    found = (0, b"")
    while True:
        kind, payload = upstream.read()
        question = wire.INT32.unpack_from(payload)[0] if kind == b"R" else 0
        if kind == b"S" and payload.startswith(b"server_version\0"):
            payload = SERVER_VERSION
        elif kind == b"K":
            found = struct.unpack("!i4s", payload)
        elif question == SASL and is_redshift_driver:
            payload = payload[:-1]  # it takes the list's end for one more mechanism
        elif kind == b"E":
            payload = translated_payload(payload, 0)
        client.write(kind, payload)
        if question in ASKED:
            client.flush()
            upstream.write(*client.read())
            upstream.flush()
        elif kind in (b"Z", b"E"):
            client.flush()
            return found if kind == b"Z" else None
