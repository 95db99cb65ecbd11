"""PostgreSQL's errors in Redshift's words, where code or text differ."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dbops_lab.redshift import wire
from dbops_lab.redshift.errors import BackendError

CANCELLED = "Query cancelled on user's request"
BYTES_CHECK = "rs_bytes_"
"""Constraints of this name hold a VARCHAR to its length in bytes; the number behind it is the length."""

_KEPT = (
    "S",
    "V",
    "C",
    "M",
    "D",
    "H",
    "P",
)  # nothing of where in PostgreSQL's code, or in the stand-in's, it was raised


def translated(payload: bytes) -> BackendError:
    """The error that the client gets for one of PostgreSQL's."""
    return _translate(wire.fields(payload))


def translated_payload(payload: bytes, query_id: int) -> bytes:
    found = wire.fields(payload)
    problem = _translate(found)
    message = numbered(problem.message, query_id)
    told = found | {"C": problem.code, "M": message, "D": problem.detail, "H": problem.hint}
    return b"".join(wire.text(letter + told[letter]) for letter in _KEPT if told.get(letter)) + b"\0"


def numbered(message: str, query_id: int) -> str:
    """The message that a statement was cancelled, with the statement's number."""
    return message.replace(CANCELLED, CANCELLED.replace("Query", f"Query ({query_id})"))


def serializable_violation(table_id: int, pid: int, transactions: tuple[int, int] = (0, 0)) -> BackendError:
    """Error 1023, as Redshift words it."""
    cycle = ", ".join(map(str, transactions))
    detail = (
        f"Serializable isolation violation on table - {table_id}, "
        f"transactions forming the cycle are: {cycle} (pid:{pid})"
    )
    return BackendError("XX000", "1023", detail)


def _translate(found: Mapping[str, str]) -> BackendError:
    code, message = found.get("C", "XX000"), found.get("M", "")
    detail, hint = found.get("D", ""), found.get("H", "")
    if code == "23514" and (limit := re.fullmatch(rf"{BYTES_CHECK}(\d+)_.*", found.get("n", ""))):
        return BackendError("22001", f"value too long for type character varying({limit[1]})")
    if code == "28P01":
        return BackendError("28000", message)
    if code == "40001":
        if "read/write" in message:
            return serializable_violation(0, 0)
        return BackendError("XX000", "could not complete because of conflict with concurrent transaction")
    if code == "23502" and (column := found.get("c")):
        return BackendError("XX000", f"Cannot insert a NULL value into column {column}")
    if code == "42501":
        message = re.sub(
            r"^permission denied for (table|view|materialized view) ", "permission denied for relation ", message
        )
    if code == "2BP01" and message.startswith("role "):
        return BackendError("55006", f"user {message.removeprefix('role ')}", detail, hint)
    if code == "428C9":
        return BackendError("0A000", "cannot set an identity column to a value")
    if code == "57014" and "user request" in message:
        return BackendError("57014", CANCELLED, detail, hint)
    return BackendError(code, message, detail, hint)
