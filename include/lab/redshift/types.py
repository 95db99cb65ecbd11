"""Redshift's column types as PostgreSQL's, with what PostgreSQL's mean differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dbops_lab.redshift.errors import BackendError, syntax_error, unsupported
from dbops_lab.redshift.lexer import QUOTED
from dbops_lab.redshift.rewrite import Group, Node, commas, render, trimmed, word

LONGEST_VARCHAR, LONGEST_CHAR = 65_535, 4_096
_PLAIN = {
    "smallint": "smallint", "int2": "smallint", "integer": "integer", "int": "integer", "int4": "integer",
    "bigint": "bigint", "int8": "bigint", "real": "real", "float4": "real", "float8": "double precision",
    "float": "double precision", "boolean": "boolean", "bool": "boolean", "date": "date", "super": "jsonb",
    "timestamptz": "timestamptz", "timetz": "timetz", "varbyte": "bytea", "varbinary": "bytea",
}  # fmt: skip
_CHARACTER = ("char", "character", "nchar", "bpchar")
_VARYING = ("varchar", "nvarchar", "text")


class ColumnType(NamedTuple):
    postgres: str
    limit: int = 0  # bytes that a text may have; 0 = it is no text
    encoding: str = "az64"  # what Redshift chooses


def read_type(nodes: Sequence[Node]) -> tuple[ColumnType, int]:
    """The type at the beginning of a column's definition, and how many nodes it takes.

    :raises BackendError: it is none of Redshift's.
    """
    at = _next(nodes, 0)
    name = word(nodes[at]) if at < len(nodes) else ""
    if name == "timestamp" or name == "time":
        return _time(nodes, at, name)
    if name == "double" and word(_node(nodes, at + 1)) == "precision":
        return ColumnType("double precision", encoding="raw"), _next(nodes, at + 1) + 1
    if name in ("numeric", "decimal"):
        return _decimal(nodes, at)
    if name in (*_CHARACTER, *_VARYING):
        return _text(nodes, at, name)
    if name not in _PLAIN:
        told = nodes[at].text if at < len(nodes) else ""
        if name in ("geometry", "geography", "hllsketch", "interval"):
            raise unsupported(f"the type {name}")
        raise BackendError("42704", f'type "{told}" does not exist') if name else syntax_error(told)
    end = at + 1
    if name in ("float", "varbyte", "varbinary") and isinstance(_node(nodes, end), Group):
        end = _next(nodes, end) + 1
    raw = ("boolean", "bool", "real", "float4", "float8", "float")
    encoding = "raw" if name in raw else "zstd" if name in ("super", "varbyte", "varbinary") else "az64"
    return ColumnType(_PLAIN[name], encoding=encoding), end


def _time(nodes: Sequence[Node], at: int, name: str) -> tuple[ColumnType, int]:
    zone = word(_node(nodes, at + 1))
    if zone in ("with", "without"):
        second = _next(nodes, at + 1)
        third = _next(nodes, second + 1)
        if word(_node(nodes, second + 1)) != "time" or word(_node(nodes, third + 1)) != "zone":
            raise syntax_error(zone)
        return ColumnType(name + ("tz" if zone == "with" else "")), _next(nodes, third + 1) + 1
    return ColumnType(name), at + 1


def _decimal(nodes: Sequence[Node], at: int) -> tuple[ColumnType, int]:
    behind = _node(nodes, at + 1)
    if not isinstance(behind, Group):
        return ColumnType("numeric(18,0)"), at + 1
    numbers = [render(part).strip() for part in commas(behind.nodes)]
    precision = int(numbers[0]) if numbers[0].isdigit() else 0
    scale = int(numbers[1]) if len(numbers) > 1 and numbers[1].isdigit() else 0
    if not 1 <= precision <= 38:
        raise BackendError("22023", f"DECIMAL precision {precision} must be between 1 and 38")
    if not 0 <= scale <= min(37, precision):
        raise BackendError("22023", f"DECIMAL scale {scale} must be between 0 and precision {precision}")
    return ColumnType(f"numeric({precision},{scale})"), _next(nodes, at + 1) + 1


def _text(nodes: Sequence[Node], at: int, name: str) -> tuple[ColumnType, int]:
    end = at + 1
    is_varying = name in _VARYING
    if name in ("character", "char") and word(_node(nodes, end)) == "varying":
        is_varying, end = True, _next(nodes, end) + 1
    size = 256 if is_varying or name == "bpchar" else 1
    behind = _node(nodes, end)
    if isinstance(behind, Group):
        inner = render(trimmed(behind.nodes)).lower()
        longest = LONGEST_VARCHAR if is_varying else LONGEST_CHAR
        size = longest if inner == "max" else int(inner) if inner.isdigit() else -1
        if not 1 <= size <= longest or name == "text":
            kind = "varchar" if is_varying else "char"
            raise BackendError("22023", f"length for type {kind} cannot exceed {longest}" if size > longest
                               else f"length for type {kind} must be at least 1")  # fmt: skip
        end = _next(nodes, end) + 1
    return ColumnType(f"{'varchar' if is_varying else 'char'}({size})", size, "lzo"), end


def _next(nodes: Sequence[Node], at: int) -> int:
    """The place of the first node from there on that is no space."""
    while at < len(nodes) and not isinstance(nodes[at], Group) and not nodes[at].text.strip():
        at += 1
    return at


def _node(nodes: Sequence[Node], at: int) -> Node | None:
    place = _next(nodes, at)
    if place >= len(nodes) or getattr(nodes[place], "kind", "") == QUOTED:
        return None
    return nodes[place]
