"""Addresses and credentials of a system, resolved outside Airflow the way Airflow would."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from dbops.errors import ConfigurationError


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

    :raises ConnectionMissing: the variable is absent or unreadable; the message never repeats its value.
    """
    name = f"AIRFLOW_CONN_{conn_id.upper()}"
    text = (os.environ if environ is None else environ).get(name, "").strip()
    if not text:
        raise ConnectionMissing(
            f"connection {conn_id}: environment variable {name} is not set; set it as for Airflow"
        )
    return _from_json(conn_id, name, text) if text.startswith("{") else _from_uri(conn_id, name, text)


def _from_json(conn_id: str, name: str, text: str) -> ConnectionInfo:
    try:
        data = json.loads(text)
        extra = data.get("extra") or {}
        extra = json.loads(extra) if isinstance(extra, str) else extra
        return ConnectionInfo(
            conn_id=conn_id,
            conn_type=data.get("conn_type", ""),
            host=data.get("host"),
            port=int(data["port"]) if data.get("port") else None,
            login=data.get("login"),
            password=data.get("password"),
            schema=data.get("schema"),
            extra=extra,
        )
    except (ValueError, TypeError, AttributeError):
        raise ConnectionMissing(
            f"connection {conn_id}: {name} is not a JSON connection; compare with `airflow connections get`"
        ) from None


def _from_uri(conn_id: str, name: str, text: str) -> ConnectionInfo:
    try:
        parts = urlsplit(text)
        extra: dict[str, Any] = dict(parse_qsl(parts.query))
        if "__extra__" in extra:
            extra = json.loads(extra["__extra__"])
        return ConnectionInfo(
            conn_id=conn_id,
            conn_type=parts.scheme.replace("-", "_"),
            host=unquote(parts.hostname) if parts.hostname else None,
            port=parts.port,
            login=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            schema=unquote(parts.path.lstrip("/")) or None,
            extra=extra,
        )
    except ValueError:
        raise ConnectionMissing(f"connection {conn_id}: {name} is not a connection URI") from None
