"""Every request of the captures gets an answer of the same structure as a real server gave.

Fields, bins and flags are compared whole; generations and void times only for being there, as they come from
what was done to the real server before. Info answers are compared by their names, in order, and exactly where
they hold nothing that belongs to that server.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from captures import GOLDEN, INFO, Exchange, exchanges, info_capture, messages
from dbops_lab.aerospike.process import StandIn
from raw import Raw

CAPTURED_AT = 1_795_380_000  # Unix seconds: filters and truncate thresholds in the captures are of that day
# In an order in which each finds the records that the real server had (the put had been done before).
CONVERSATIONS = (
    "client_handshake", "put", "put", "put_sendkey", "get", "get_missing", "exists", "operate", "remove",
    "batch_write", "batch_write_gen", "batch_read", "index_create", "query_partition", "query_ns",
    "query_modified_since", "scan_partition", "query_after_digest", "sindex_query", "truncate",
    "truncate_lut", "udf_put", "info", "asbackup", "asrestore",
)  # fmt: skip
FACTS_INDEXES = (
    "sindex-create:ns=bidder;set=facts;indexname=facts_int_idx;bin=int;type=numeric",
    "sindex-create:ns=bidder;set=facts;indexname=facts_str_idx;bin=str;type=string",
    "sindex-create:ns=bidder;set=facts;indexname=facts_geo_idx;bin=geo;type=geo2dsphere",
    "sindex-create:ns=bidder;set=facts;indexname=facts_list_idx;bin=list;type=numeric;indextype=list",
    "sindex-create:ns=bidder;set=facts;indexname=facts_mapk_idx;bin=map;type=string;indextype=mapkeys",
    "sindex-create:ns=bidder;set=facts;indexname=facts_ctx_idx;bin=map;type=numeric;context=kiKiA2s=",
)
EXACT = {
    "build", "edition", "features", "namespaces", "status", "version", "health-outliers", "sindex-list:",
    "sindex/bidder", "namespace/nope", "sets/nope", "udf-get:filename=facts.lua", "replicas:max=1",
    "truncate:namespace=dmp;set=nope", "sindex-list:namespace=bidder",
    "sindex-list:namespace=bidder;b64=true",
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    """One node that went through all conversations, with the clock of their day."""
    with StandIn(namespaces=["bidder", "dmp"]) as stand_in:
        stand_in.inject(clock_offset=CAPTURED_AT - time.time())
        yield stand_in


@pytest.fixture(scope="module")
def replayed(server: StandIn) -> dict[str, list[tuple[Exchange, list[bytes]]]]:
    """Capture -> its exchanges and the bodies that the stand-in answered."""
    connection = Raw(server.ports[0])
    done: dict[str, list[tuple[Exchange, list[bytes]]]] = {}
    for name in CONVERSATIONS:
        done[name] = []
        for exchange in exchanges(name):
            connection.socket.sendall(exchange.request.request())
            bodies: list[bytes] = []
            while True:
                kind, body = connection.frame()
                assert kind == exchange.request.kind
                bodies.append(body)
                wanted = exchange.answers[-1]
                streams = wanted.kind != INFO and messages(wanted.body)[-1].info3 & 1
                if not streams or messages(body)[-1].info3 & 1:
                    break
            done[name].append((exchange, bodies))
    connection.socket.close()
    return done


@pytest.mark.parametrize("name", sorted(set(CONVERSATIONS)))
def test_conversation_is_answered_with_the_same_structure(
    replayed: dict[str, list[tuple[Exchange, list[bytes]]]], name: str
) -> None:
    assert replayed[name]
    for exchange, bodies in replayed[name]:
        if exchange.request.kind == INFO:
            (body,) = bodies
            (captured,) = exchange.answers
            same_info(captured.body.decode(), body.decode(), is_whole=captured.is_whole)
            continue
        assert all(answer.is_whole for answer in exchange.answers)
        wanted = [item for answer in exchange.answers for item in messages(answer.body)]
        got = [item for body in bodies for item in messages(body)]
        assert got[-1] == wanted[-1]
        assert sorted(map(repr, got)) == sorted(map(repr, wanted))  # partitions come in any order


def test_every_capture_is_replayed() -> None:
    assert {path.stem for path in (GOLDEN / "wire").glob("*.txt")} == set(CONVERSATIONS)


def same_info(wanted: str, got: str, *, is_whole: bool) -> None:
    wanted_lines, got_lines = wanted.split("\n"), got.split("\n")
    if is_whole:
        assert len(got_lines) == len(wanted_lines)
    for number, line in enumerate(wanted_lines):
        name, _, value = line.partition("\t")
        got_name, _, got_value = got_lines[number].partition("\t")
        assert got_name == name
        is_cut = not is_whole and number == len(wanted_lines) - 1
        same_value(name, value, got_value, is_cut=is_cut)


def same_value(command: str, wanted: str, got: str, *, is_cut: bool = False) -> None:
    if command in EXACT:
        assert got == wanted
        return
    expected, found = shape(wanted), shape(got)
    if is_cut:
        expected = expected[:-1]
        found = found[: len(expected)]
        if command in {
            "sets",
            "sets/dmp",
        }:  # other sets than the real server had: each row has the same names
            expected, found = sorted(set(expected)), sorted(set(found))
    elif command.startswith("sets"):
        expected, found = sorted(set(expected)), sorted(set(found))
    assert found == expected, command


def shape(value: str) -> list[str]:
    """The rows of an answer without what is in them: names of key=value pairs, kinds of plain values."""
    return [row_shape(row) for row in value.split(";")]


def row_shape(row: str) -> str:
    if "=" in row:
        separator = ":" if row.startswith("ns=") else ","
        return separator.join(part.partition("=")[0] for part in re.split(separator, row))
    if row.startswith("ERROR"):
        return row
    if ":msec," in row or row.endswith(":"):
        return row.partition(":")[0]
    if re.fullmatch(r"[0-9A-F]{6,16}", row):
        return "hex"
    row = re.sub(r"127\.0\.0\.1:\d+", "address", row)
    return re.sub(r"\d+", "n", row)


@pytest.mark.usefixtures("replayed")
@pytest.mark.parametrize("path", sorted((GOLDEN / "info").glob("*.txt")), ids=lambda path: path.stem)
def test_info_answer_has_the_same_names(server: StandIn, path: Path) -> None:
    command, wanted = info_capture(path)
    connection = Raw(server.ports[0])
    for index in FACTS_INDEXES:
        assert connection.info(index) == "ok"
    if command in {"sindex-list:", "sindex-list"}:
        connection.info("sindex-delete:ns=dmp;indexname=wire_n_idx")
    got = connection.info(command)
    connection.socket.close()
    if wanted.startswith("ERROR"):
        problem = re.match(r"ERROR \w+\((\d+), '(.*) from ", wanted)
        assert problem is not None
        code, text = problem.groups()
        assert got == f"ERROR:{code}:{text}"
    elif command == "partition-info":  # the capture holds the beginning only
        rows = wanted.split(";")[:-1]
        got_rows = got.split(";")
        assert got_rows[0] == rows[0]
        assert len(got_rows) == 1 + 2 * 4096
        for row, got_row in zip(rows[1:], got_rows[1:], strict=False):
            assert got_row.split(":")[:7] == row.split(":")[:7]
            assert got_row.count(":") == row.count(":")
    elif command == "latencies":
        assert sorted(map(row_shape, got.split(";"))) == sorted(map(row_shape, wanted.split(";")))
    else:
        same_value(command, wanted, got)
