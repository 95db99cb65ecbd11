"""Addresses and credentials of a system, resolved outside Airflow the way Airflow would."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from dbops.errors import ConfigurationError

TEXTS = ("host", "login", "password", "schema")
KEYS = {"conn_type", "description", "port", "extra", *TEXTS}


class ConnectionMissing(ConfigurationError):
    """No connection of that id is configured, or its text cannot be read."""


@dataclass(frozen=True)
class ConnectionInfo:
    """What a connection holds. `password` and `extra` never show in a repr."""

    conn_id: str
    conn_type: str = ""
    host: str | None = None
    port: int | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    schema: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


def from_env(conn_id: str, environ: Mapping[str, str] | None = None) -> ConnectionInfo:
    """Read `AIRFLOW_CONN_<ID>`: JSON or URI, the two forms that Airflow accepts.

    As in a task, the parameters of a URI's query are texts; `__extra__` and JSON carry other types.

    :raises ConnectionMissing: the variable is absent or unreadable; the message never repeats its value.
    """
    name = f"AIRFLOW_CONN_{conn_id.upper()}"
    text = (os.environ if environ is None else environ).get(name, "").strip()
    if not text:
        raise ConnectionMissing(f"connection {conn_id}: environment variable {name} is not set; set it as for Airflow")
    try:
        return _from_json(conn_id, text) if text.startswith("{") else _from_uri(conn_id, text)
    except ValueError as error:
        raise ConnectionMissing(
            f"connection {conn_id}: {name} {error}; compare with `airflow connections get {conn_id} -o json`"
        ) from None


def _from_json(conn_id: str, text: str) -> ConnectionInfo:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("starts as JSON but is none") from None
    unknown = sorted(set(data) - KEYS)
    if unknown:
        raise ValueError(f"has keys that no connection has: {', '.join(unknown)}")
    texts: dict[str, str | None] = {}
    for key in ("conn_type", *TEXTS):
        value = data.get(key)
        if not isinstance(value, str | None):
            raise ValueError(f"has a {key} that is no text; quote it")
        texts[key] = value or None
    return _connection(conn_id, _type(texts.pop("conn_type") or ""), data.get("port"), data.get("extra"), texts)


def _from_uri(conn_id: str, text: str) -> ConnectionInfo:
    scheme, slashes, rest = text.partition("://")
    if not slashes:
        scheme, slashes, rest = "", "//", text.removeprefix("//")
        if rest == text:
            raise ValueError("is neither JSON nor a URI (type://login:password@host:port/schema)")
    protocol, separator, behind = rest.partition("://")
    if separator:  # type://protocol://host: the host is an address of its own
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", protocol) or "://" in behind:
            raise ValueError("is a URI with '://' in its parts; percent-encode them")
        rest = behind
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError:
        raise ValueError("is a URI whose host or port cannot be read; percent-encode login and password") from None
    host = _host(parts)
    texts = {
        "host": f"{protocol}://{host}" if separator and host else host,
        "login": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "schema": unquote(parts.path[1:]) or None,
    }
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return _connection(conn_id, _type(scheme), port, query.get("__extra__", query), texts)


def _host(parts: SplitResult) -> str | None:
    """`hostname` is in lower case: a path, such as that of a socket, is taken as it was written."""
    host = unquote(parts.hostname or "")
    if "/" in host:
        host = unquote(parts.netloc.rpartition("@")[2].partition(":")[0])
    return host or None


def _type(text: str) -> str:
    return "postgres" if text == "postgresql" else text.replace("-", "_")


def _connection(conn_id: str, conn_type: str, port: Any, extra: Any, texts: dict[str, str | None]) -> ConnectionInfo:
    if isinstance(port, str) and port.strip().isdecimal():
        port = int(port)
    if not port:
        port = None
    elif type(port) is not int or not 0 < port < 65536:
        raise ValueError("has a port that is no number of 1..65535")
    if isinstance(extra, str) and extra:
        try:
            extra = json.loads(extra)
        except (ValueError, RecursionError):
            raise ValueError("has an extra that is no JSON") from None
    if not isinstance(extra or {}, dict):
        raise ValueError("has an extra that is no JSON object")
    return ConnectionInfo(conn_id=conn_id, conn_type=conn_type, port=port, extra=extra or {}, **texts)
