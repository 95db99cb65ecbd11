"""COPY loads what Redshift loads, refuses what it refuses, and says of each row why."""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
import io
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from bulk_world import ROLE, World
from dbops_lab.redshift import copy
from dbops_lab.redshift.backend import BackendError
from dbops_lab.redshift.copy import CHECK, CopyFailed


def parquet(table: dict[str, pa.Array] | pa.Table) -> bytes:
    body = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), body)
    return body.getvalue()


def why(done: copy.CopyDone) -> list[tuple[int, str, int, str]]:
    """Line, column, code and reason of each row that was not loaded."""
    return [(error.line_number, error.colname, error.err_code, error.err_reason) for error in done.errors]


# One field at a time

LOADED = [
    ("smallint", "", "-32768", -32768),
    ("int", "", " 7 ", 7),
    ("int", "", "+7", 7),
    ("int", "", "", None),
    ("int", "", "   ", None),
    ("int", "", r"\N", None),
    ("bigint", "", "9223372036854775807", 2**63 - 1),
    ("numeric(8,2)", "", "20.259", Decimal("20.25")),
    ("numeric(8,2)", "", "-20.259", Decimal("-20.25")),
    ("numeric(8,2)", "ROUNDEC", "20.259", Decimal("20.26")),
    ("numeric(8,2)", "", "1.5e3", Decimal("1500.00")),
    ("numeric(38,10)", "", f"{10**27}.0123456789", Decimal(f"{10**27}.0123456789")),
    ("float8", "", "1e-7", 1e-7),
    ("float8", "", "-Infinity", float("-inf")),
    ("bool", "", "Y", True),
    ("bool", "", "0", False),
    ("date", "", "2026-02-28", dt.date(2026, 2, 28)),
    ("date", "", "2026-02-28 23:59:59", dt.date(2026, 2, 28)),
    ("date", "DATEFORMAT 'MM/DD/YYYY'", "2/8/2026", dt.date(2026, 2, 8)),
    ("date", "DATEFORMAT AS 'DD-MON-YY'", "08-feb-99", dt.date(1999, 2, 8)),
    ("date", "DATEFORMAT 'auto'", "Feb 08, 2026", dt.date(2026, 2, 8)),
    ("date", "DATEFORMAT 'auto'", "20260208", dt.date(2026, 2, 8)),
    ("date", "ACCEPTANYDATE", "00/00/00 00:00:00", None),
    ("timestamp", "", "2026-01-02 03:04:05.678901", "2026-01-02 03:04:05.678901"),
    ("timestamp", "TIMEFORMAT 'auto'", "2026-01-02T03:04:05Z", "2026-01-02 03:04:05"),
    ("timestamp", "TIMEFORMAT 'auto'", "01/02/2026 03:04 PM", "2026-01-02 15:04:00"),
    ("timestamp", "TIMEFORMAT 'auto'", "20260102030405", "2026-01-02 03:04:05"),
    ("timestamp", "TIMEFORMAT 'YYYY-MM-DDTHH:MI:SS'", "2026-01-02T03:04:05.5", "2026-01-02 03:04:05.5"),
    ("timestamp", "TIMEFORMAT 'DD.MM.YYYY HH12:MI AM'", "02.01.2026 12:04 am", "2026-01-02 00:04:00"),
    ("timestamp", "TIMEFORMAT 'epochsecs'", "1767323045", "2026-01-02 03:04:05"),
    ("timestamp", "TIMEFORMAT 'epochmillisecs'", "1767323045678", "2026-01-02 03:04:05.678"),
    ("timestamp", "TIMEFORMAT 'epochsecs'", "-1", "1969-12-31 23:59:59"),
    ("timestamptz", "", "2026-01-02 03:04:05", "2026-01-02 03:04:05+00"),
    ("timestamptz", "", "2026-01-02 03:04:05+02", "2026-01-02 01:04:05+00"),
    ("timestamptz", "TIMEFORMAT 'auto'", "2026-01-02T03:04:05-05:30", "2026-01-02 08:34:05+00"),
    ("varchar(4)", "TRUNCATECOLUMNS", "abcdef", "abcd"),
    ("varchar(4)", "TRUNCATECOLUMNS", "abcé", "abc"),
    ("varchar(4)", "", "", ""),
    ("varchar(4)", "EMPTYASNULL", "", None),
    ("varchar(4)", "", "   ", "   "),
    ("varchar(4)", "BLANKSASNULL", "   ", None),
    ("varchar(4)", "TRIMBLANKS", "a  ", "a"),
    ("varchar(4)", "NULL AS 'nil'", "nil", None),
    ("varchar(4)", "NULL AS 'nil'", r"\N", r"\N"),
    ("varchar(20)", "", "tab\tand \\ mark", "tab\tand \\ mark"),
    ("super", "", '{"a": [1, 2]}', {"a": [1, 2]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "field", "value"), LOADED)
def test_a_field_becomes_this_value(kind: str, options: str, field: str, value: Any, world: World) -> None:
    world.sql("create domain super as jsonb")
    world.sql(f"create table t (k int, v {kind})")
    done = world.load(f"1|{field}\n", "t", options)
    assert (done.status, done.loaded_rows, why(done)) == ("completed", 1, [])
    shown = "v::text" if kind.startswith("timestamp") else "v"
    world.sql("set timezone to 'UTC'")
    assert world.sql(f"select {shown} from t") == [(value,)]


REFUSED = [
    ("smallint", "", "32768", 1222, "Overflow (Short valid range -32768 to 32767)"),
    ("int", "", "a", 1207, "Invalid digit, Value 'a', Pos 0, Type: Integer"),
    ("int", "", "12x", 1207, "Invalid digit, Value 'x', Pos 2, Type: Integer"),
    ("int", "", "1.0", 1207, "Invalid digit, Value '.', Pos 1, Type: Integer"),
    ("bigint", "", "٣", 1207, "Invalid digit, Value '٣', Pos 0, Type: Long"),
    ("bigint", "", "1_000", 1207, "Invalid digit, Value '_', Pos 1, Type: Long"),
    ("bigint", "", str(2**63), 1222, f"Overflow (Long valid range {-(2**63)} to {2**63 - 1})"),
    ("numeric(8,2)", "", "1,5", 1207, "Invalid digit, Value ',', Pos 1, Type: Decimal"),
    ("numeric(8,2)", "", "1234567", 1204, "Overflow for NUMERIC(8,2)"),
    ("numeric(8,2)", "ROUNDEC", "999999.999", 1204, "Overflow for NUMERIC(8,2)"),
    ("float8", "", "1_0", 1208, "Invalid digit, Value '_', Pos 1, Type: Double"),
    ("bool", "", "maybe", 1210, "Unknown boolean format"),
    ("date", "", "2026-1-2", 1205, "Invalid Date Format - length must be 10 or more"),
    ("date", "", "2026-02-30", 1205, "Invalid date format or value [YYYY-MM-DD]"),
    ("date", "DATEFORMAT 'MM/DD/YYYY'", "2026-02-03", 1205, "Invalid date format or value [MM/DD/YYYY]"),
    ("timestamp", "", "2026-01-02T03:04:05", 1206, "Invalid timestamp format or value [YYYY-MM-DD HH24:MI:SS]"),
    ("timestamp", "", "2026-01-02 25:04:05", 1206, "Invalid timestamp format or value [YYYY-MM-DD HH24:MI:SS]"),
    ("timestamp", "TIMEFORMAT 'epochsecs'", "soon", 1206, "Invalid timestamp format or value [epochsecs]"),
    ("timestamp", "TIMEFORMAT 'epochmillisecs'", "9" * 30, 1206, "Invalid timestamp format or value [epochmillisecs]"),
    ("varchar(4)", "", "abcde", 1204, "String length exceeds DDL length"),
    ("varchar(4)", "", "ééé", 1204, "String length exceeds DDL length"),
    ("char(4)", "", "abcde", 1204, "Char length exceeds DDL length"),
    ("char(4)", "", "é", 1220,
     "Multibyte character not supported for CHAR (Hint: Try using VARCHAR). Invalid char: c3 a9"),
    ("varchar(4) not null", "", r"\N", 1213, "Missing data for not-null field"),
    ("int not null", "", "", 1213, "Missing data for not-null field"),
    ("super", "", "{a}", 1224, "Input data is not in well-formed JSON format for the super data type"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "field", "code", "reason"), REFUSED)
def test_a_field_is_refused_for_this_reason(
    kind: str, options: str, field: str, code: int, reason: str, world: World
) -> None:
    world.sql("create domain super as jsonb")
    world.sql(f"create table t (k int, v {kind})")
    done = world.load(f"1|{field}\n", "t", f"MAXERROR 2 {options}")
    assert (done.status, done.loaded_rows) == ("completed", 0)
    assert why(done) == [(1, "v", code, reason)]
    assert (done.errors[0].raw_line, done.errors[0].raw_field_value) == (f"1|{field}", field)


def test_an_error_names_type_and_length_of_its_column(world: World) -> None:
    world.sql("create table t (a int, b varchar(3), c numeric(5,1), d char(2), e timestamptz)")
    done = world.load("x||||\n|abcd|||\n||x||\n|||abc|\n||||x\n", "t", "MAXERROR 10")
    shown = [(error.colname, error.type, error.col_length) for error in done.errors]
    assert shown == [
        ("a", "int4", ""),
        ("b", "varchar", "3"),
        ("c", "numeric", "5, 1"),
        ("d", "char", "2"),
        ("e", "timestamptz", ""),
    ]


def test_bytes_that_are_no_utf8_are_refused_or_replaced_one_by_one(world: World) -> None:
    world.sql("create table t (k int, v varchar(10))")
    body = b"1|fine\n2|a\xe0\xa1b\n3|\xc3\xa9\n"
    done = world.load(body, "t", "MAXERROR 5")
    assert why(done) == [
        (2, "v", 1220, "String contains invalid or unsupported UTF8 codepoints. Bad UTF8 hex sequence: e0 a1 (error 3)")
    ]
    world.sql("truncate t")
    world.load(body, "t", "ACCEPTINVCHARS AS '^'")
    assert world.sql("select v from t order by k") == [("fine",), ("a^^b",), ("é",)]


# Records


@pytest.mark.parametrize(
    ("options", "body", "rows"),
    [
        ("", "1|a\n2|b", [(1, "a"), (2, "b")]),
        ("", "1|a|\r\n2|b|\r\n", [(1, "a"), (2, "b")]),
        ("DELIMITER '\\t'", "1\ta\n", [(1, "a")]),
        ("DELIMITER AS '\\001'", "1\x01a\n", [(1, "a")]),
        ("IGNOREHEADER 1", "n|v\n1|a\n", [(1, "a")]),
        ("IGNOREHEADER AS 2 CSV", '"n\nv",x\n1,a\n', [(1, "a")]),
        ("IGNOREBLANKLINES", "\n1|a\n\r\n\n", [(1, "a")]),
        ("FILLRECORD", "1\n", [(1, "")]),
        ("FILLRECORD EMPTYASNULL", "1\n", [(1, None)]),
        ("ESCAPE", "1|a\\|b\\\\c\\\nd\n2|\\N\n3|x\\N\n", [(1, "a|b\\c\nd"), (2, None), (3, "xN")]),
        ("ESCAPE NULL AS 'nil'", "1|\\N\n", [(1, "N")]),
        ("REMOVEQUOTES", "1|'a|b'\n\"2\"|\"it's\"\n3|plain \"x\n", [(1, "a|b"), (2, "it's"), (3, 'plain "x')]),
        ("REMOVEQUOTES ESCAPE", '1|"say \\"hi\\""\n', [(1, 'say "hi"')]),
        ("CSV", '1,"a,""b"""\n2,"line\nbreak"\n', [(1, 'a,"b"'), (2, "line\nbreak")]),
        ("CSV", '1, "a" \n', [(1, "a")]),
        ("CSV", "1,\n2,\"\"\n3,\\N\n", [(1, ""), (2, ""), (3, None)]),
        ("FORMAT AS CSV QUOTE AS '%' DELIMITER ';'", '1;%a;"b%%"%\n', [(1, 'a;"b%"')]),
        ("CSV", '"1","a"\r\n"2","b"\r\n', [(1, "a"), (2, "b")]),
    ],
)  # fmt: skip
def test_records_are_read_so(options: str, body: str, rows: list[tuple[Any, ...]], world: World) -> None:
    world.sql("create table t (n int, v varchar(20))")
    done = world.load(body, "t", options)
    assert world.sql("select * from t order by n") == rows
    assert done.loaded_rows == len(rows)


@pytest.mark.parametrize(
    ("options", "body", "errors"),
    [
        ("", "1\n2|b\n", [(1, "", 1214, "Delimiter not found")]),
        ("", "1|a|b\n", [(1, "", 1202, "Extra column(s) found")]),
        ("", "\n1|a\n", [(1, "", 1214, "Delimiter not found")]),
        ("CSV", "1,a,\n", [(1, "", 1202, "Extra column(s) found")]),
        ("CSV", '1,a"b"c\n2,ok\n', [(1, "", 1214, "Invalid quote formatting for CSV")]),
        ("CSV", '1,"a\nb"\nx,c\n', [(3, "n", 1207, "Invalid digit, Value 'x', Pos 0, Type: Integer")]),
        ("CSV IGNOREHEADER 1", "n,v\n1,a\nx,b\n", [(3, "n", 1207, "Invalid digit, Value 'x', Pos 0, Type: Integer")]),
        ("REMOVEQUOTES", "1|'a\n", [(1, "", 1214, "Delimiter not found")]),
    ],
)
def test_records_are_refused_so(options: str, body: str, errors: list[tuple[int, str, int, str]], world: World) -> None:
    world.sql("create table t (n int, v varchar(20))")
    assert why(world.load(body, "t", f"MAXERROR 9 {options}")) == errors


NASTY = [
    "",
    "plain",
    "a|b",
    'say "hi"',
    "it's",
    "back\\slash",
    "line\nbreak",
    "cr\rhere",
    "\\N",
    "tab\t",
    "é,漢",
    " pad ",
]


@pytest.mark.parametrize(
    ("unload", "load"),
    [
        ("ESCAPE NULL AS '@nil@'", "ESCAPE NULL AS '@nil@'"),
        ("ADDQUOTES ESCAPE NULL AS '@nil@' GZIP", "REMOVEQUOTES ESCAPE NULL AS '@nil@' GZIP"),
        ("CSV NULL AS '@nil@' ZSTD MANIFEST", "CSV NULL AS '@nil@' ZSTD MANIFEST"),
        ("PARQUET MANIFEST VERBOSE", "PARQUET MANIFEST"),
    ],
)
def test_what_unload_wrote_copy_reads_back_as_it_was(unload: str, load: str, world: World) -> None:
    world.sql("create table t (k int, v varchar(40), p numeric(9,3), f float8, at timestamp, d date, ok bool)")
    for key, value in enumerate(NASTY):
        world.connection.execute(
            "insert into t values (%s, %s, %s / 7.0, %s / 3.0::float8, now(), now(), %s)",
            [key, value, key, key, key % 2 == 0],
        )
    world.sql("insert into t (k) values (99)")
    world.unload("select * from t", unload, "/back/")
    world.sql("create table u (like t)")
    done = world.copy("u", load, "/back/manifest" if "MANIFEST" in load else "/back/")
    assert done.loaded_rows == len(NASTY) + 1
    assert world.sql("select * from u order by k") == world.sql("select * from t order by k")


@pytest.mark.parametrize(
    ("option", "pack"),
    [("GZIP", gzip.compress), ("BZIP2", bz2.compress), ("ZSTD", zstandard.ZstdCompressor().compress)],
)
def test_compressed_files_of_several_frames_are_read_whole(
    option: str, pack: Callable[[bytes], bytes], world: World
) -> None:
    world.sql("create table t (n int)")
    done = world.load(pack(b"1\n2\n") + pack(b"3\n"), "t", option)
    assert (done.loaded_rows, done.compression, done.files[0].lines_scanned) == (3, option.lower(), 3)


def test_a_file_that_is_not_compressed_as_told_loads_nothing(world: World) -> None:
    world.sql("create table t (n int)")
    with pytest.raises(CopyFailed, match=r"Failed to read s3://.*/loaded as gzip"):
        world.load("1\n2\n", "t", "GZIP")
    with pytest.raises(CopyFailed, match="Failed to read"):
        world.load(gzip.compress(b"1\n" * 50000)[:-20], "t", "GZIP")
    assert world.sql("select count(*) from t") == [(0,)]


# JSON


def test_json_auto_takes_values_by_name_however_the_objects_are_laid_out(world: World) -> None:
    world.sql("create table t (id int, name varchar(50), price numeric(8,2), ok bool, doc jsonb)")
    body = """{"id": 1, "name": "a\\nb é", "price": 1.10, "ok": true, "doc": {"x": [1, "y"]}, "other": 1}
{"name": {"nested": ["v", 1]}, "id": "2"} {"id": 3, "doc": "text",
  "name": "}{",
  "ok": null
}
"""
    done = world.load(body, "t", "FORMAT AS JSON 'auto'")
    assert world.sql("select * from t order by id") == [
        (1, "a\nb é", Decimal("1.10"), True, {"x": [1, "y"]}),
        (2, '{"nested":["v",1]}', None, None, None),
        (3, "}{", None, None, "text"),
    ]
    assert (done.file_format, done.files[0].lines_scanned) == ("JSON", 3)


def test_json_keys_match_in_their_case_unless_it_is_ignored(world: World) -> None:
    world.sql("create table t (userid int)")
    world.load('{"userId": 1}', "t", "JSON")
    world.load('{"userId": 2}', "t", "JSON 'auto ignorecase'")
    assert world.sql("select * from t order by 1") == [(2,), (None,)]


def test_jsonpaths_map_objects_and_arrays(world: World) -> None:
    world.sql("create table t (id int, title varchar(20), first varchar(20))")
    world.put("bracket.json", json.dumps({"jsonpaths": ["$['id']", "$['store']['book title']", "$['tags'][0]"]}))
    world.put("dot.json", json.dumps({"jsonpaths": ["$.id", "$.store.title", "$.tags[1].x"]}))
    world.put("array.json", json.dumps({"jsonpaths": ["$[0]", "$[1]", "$[2]"]}))
    world.load('{"id": 1, "store": {"book title": "b"}, "tags": ["t"]}', "t", f"JSON '{world.url}/bracket.json'")
    world.load('{"id": 2, "tags": [0, {"x": 5}]}', "t", f"JSON '{world.url}/dot.json'")
    world.load('[3, "c", null]\n[4, "d", [1]]', "t", f"JSON '{world.url}/array.json'")
    assert world.sql("select * from t order by id") == [(1, "b", "t"), (2, None, "5"), (3, "c", None), (4, "d", "[1]")]


def test_what_is_wrong_with_json_is_counted_by_object(world: World) -> None:
    world.sql("create table t (id int not null)")
    world.put("paths.json", '{"jsonpaths": ["$.ids[1]"]}')
    body = '{"id": 1}\nnoise {"id": 2}\n{"id": "x"}\n{"id": 3,}\n{"other": 1}\n{"id": 4'
    done = world.load(body, "t", "JSON MAXERROR 99")
    assert [error[0::2] for error in why(done)] == [(2, 1216), (3, 1207), (4, 1216), (5, 1213), (6, 1216)]
    assert world.sql("select * from t order by 1") == [(1,), (2,)]
    done = world.load('{"ids": [1]}', "t", f"JSON '{world.url}/paths.json' MAXERROR 2")
    assert why(done) == [(1, "", 1216, "Invalid JSONPath format: Not an array or index out of range.")]


def test_jsonpaths_must_be_one_for_each_column(world: World) -> None:
    world.sql("create table t (a int, b int)")
    world.put("paths.json", '{"jsonpaths": ["$.a"]}')
    with pytest.raises(
        CopyFailed, match=r"Number of jsonpaths and the number of columns should match. JSONPath size: 1"
    ):
        world.load("{}", "t", f"JSON '{world.url}/paths.json'")
    world.put("paths.json", '{"jsonpaths": ["$.a[*]", "$.b"]}')
    with pytest.raises(CopyFailed, match="Invalid JSONPath format"):
        world.load("{}", "t", f"JSON '{world.url}/paths.json'")


# Parquet


def test_parquet_goes_by_position(world: World) -> None:
    world.sql("create table t (a int, b varchar(10))")
    world.load(parquet({"x": pa.array([1, None], pa.int32()), "y": ["é", ""]}), "t", "FORMAT PARQUET")
    assert world.sql("select * from t order by a") == [(1, "é"), (None, "")]
    world.load(parquet({"y": ["z"], "x": pa.array([2], pa.int32())}), "t (b, a)", "PARQUET")
    assert world.sql("select * from t where a = 2") == [(2, "z")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": pa.array([1], pa.int32())},
         "Unmatched number of columns between table and file. Table columns: 2, Data columns: 1"),
        ({"a": pa.array([1], pa.int64()), "b": ["x"]}, "incompatible Parquet schema for column .*Column type: INT4"),
        ({"a": pa.array([1], pa.int32()), "b": pa.array([1], pa.int32())}, "Column type: VARCHAR"),
        ({"a": pa.array([1], pa.int32()), "b": ["toolong"]},
         "longer than the length defined in the table. Table: 4, Data: 7"),
        ({"a": pa.array([None], pa.int32()), "b": ["x"]}, "Missing data for not-null field 'a'"),
    ],
)  # fmt: skip
def test_parquet_that_does_not_fit_loads_nothing(table: dict[str, Any], message: str, world: World) -> None:
    world.sql("create table t (a int not null, b varchar(4))")
    world.put("1", parquet({"a": pa.array([7], pa.int32()), "b": ["ok"]}))
    world.put("2", parquet(table))
    with pytest.raises(CopyFailed, match=rf"Spectrum Scan Error. .*{message}") as caught:
        world.copy("t", "PARQUET")
    assert caught.value.done.errors[0].filename == f"{world.url}/2"
    assert caught.value.done.errors[0].err_code in (15001, 15007)
    assert world.sql("select count(*) from t") == [(0,)]


def test_decimals_must_have_the_scale_of_the_column(world: World) -> None:
    world.sql("create table t (a numeric(10,2))")
    world.load(parquet({"a": pa.array([Decimal("1.25")], pa.decimal128(9, 2))}), "t", "PARQUET")
    with pytest.raises(CopyFailed, match="incompatible"):
        world.load(parquet({"a": pa.array([Decimal("1.250")], pa.decimal128(10, 3))}), "t", "PARQUET")
    assert world.sql("select * from t") == [(Decimal("1.25"),)]


def test_super_columns_take_nested_values_when_asked(world: World) -> None:
    world.sql("create table t (doc jsonb)")
    body = parquet({"doc": [{"a": [1, 2], "b": None}]})
    with pytest.raises(CopyFailed, match="incompatible"):
        world.load(body, "t", "PARQUET")
    world.load(body, "t", "PARQUET SERIALIZETOJSON")
    assert world.sql("select doc from t") == [({"a": [1, 2], "b": None},)]


def test_a_manifest_is_no_parquet_file(world: World) -> None:
    """An UNLOAD's prefix, loaded without MANIFEST, fails at the manifest, as the real one does."""
    world.unload("select 1 as n", "PARQUET MANIFEST")
    world.sql("create table t (n int)")
    with pytest.raises(CopyFailed, match="manifest' is not a valid Parquet file"):
        world.copy("t", "PARQUET")


# Files and manifests


def test_a_prefix_that_leads_nowhere_is_redshifts_error(world: World) -> None:
    world.sql("create table t (n int)")
    with pytest.raises(CopyFailed) as caught:
        world.copy("t", source="/nothing")
    assert (caught.value.code, caught.value.message) == (
        "XX000",
        f"The specified S3 prefix '{world.prefix}/nothing' does not exist",
    )
    assert "code:      8001" in caught.value.detail
    assert "query:     100" in caught.value.detail


def test_every_file_under_the_prefix_is_loaded_and_listed(world: World) -> None:
    world.sql("create table t (n int)")
    world.put("in/a", "1\n2\n")
    world.put("in/b/c", "3\n")
    world.put("in/empty", "")
    done = world.copy("t", source="/in/")
    assert [(file.filename, file.lines_scanned, file.bytes_scanned) for file in done.files] == [
        (f"{world.url}/in/a", 2, 4),
        (f"{world.url}/in/b/c", 1, 2),
    ]
    assert (done.loaded_rows, done.loaded_bytes, done.source_file_count) == (3, 6, 2)
    assert (done.table, done.data_source, done.file_format) == ("t", f"{world.url}/in/", "Text")
    assert world.sql("select 't'::regclass::oid::int") == [(done.table_id,)]


def manifest(*entries: dict[str, Any]) -> str:
    return json.dumps({"entries": list(entries)})


def test_a_manifest_loads_what_it_lists_and_minds_what_is_mandatory(world: World) -> None:
    world.sql("create table t (n int)")
    world.put("a", "1\n")
    here, gone = {"url": f"{world.url}/a"}, {"url": f"{world.url}/gone"}
    world.put("m", manifest(here, here, gone))
    assert world.copy("t", "MANIFEST", "/m").loaded_rows == 2
    world.put("m", manifest(here, gone | {"mandatory": True}))
    with pytest.raises(CopyFailed, match="Mandatory url is not present in manifest file") as caught:
        world.copy("t", "MANIFEST", "/m")
    assert f"{world.url}/gone" in caught.value.detail
    assert world.sql("select count(*) from t") == [(2,)]


@pytest.mark.parametrize(
    ("body", "source", "message"),
    [
        ("{}", "/m", "Manifest file is not in correct json format"),
        ("a,b", "/m", "Manifest file is not in correct json format"),
        ('{"entries": [{"url": "http://x"}]}', "/m", "Manifest file is not in correct json format"),
        ("{}", "/missing", "Problem reading manifest file - S3ServiceException:.*Status 404,Error NoSuchKey"),
        ("{}", "/", "COPY with MANIFEST parameter requires full path of an S3 object."),
        (manifest({"url": "s3://bedrock-backups/not-there"}), "/m", "No file of the manifest exists"),
    ],
)
def test_a_manifest_that_is_none_is_refused(body: str, source: str, message: str, world: World) -> None:
    world.sql("create table t (n int)")
    world.put("m", body)
    with pytest.raises(CopyFailed, match=message):
        world.copy("t", "MANIFEST", source)


def test_parquet_needs_the_right_length_in_the_manifest(world: World) -> None:
    world.sql("create table t (n int)")
    body = parquet({"n": pa.array([1], pa.int32())})
    world.put("a", body)
    url = f"{world.url}/a"
    world.put("m", manifest({"url": url}))
    with pytest.raises(CopyFailed, match="has no meta content_length"):
        world.copy("t", "PARQUET MANIFEST", "/m")
    world.put("m", manifest({"url": url, "meta": {"content_length": len(body) + 1}}))
    with pytest.raises(CopyFailed, match=f"has {len(body)} bytes, its manifest entry says {len(body) + 1}"):
        world.copy("t", "PARQUET MANIFEST", "/m")


# Errors, transactions


def test_fewer_errors_than_maxerror_load_the_rest_and_as_many_load_nothing(world: World) -> None:
    world.sql("create table t (n int)")
    body = "1\nx\n2\ny\n3\n"
    done = world.load(body, "t", "MAXERROR 3")
    assert done.notices == [
        "Load into table 't' completed, 3 record(s) loaded successfully.",
        f"Load into table 't' completed, 2 record(s) could not be loaded.  {CHECK}",
    ]
    assert (done.loaded_rows, done.error_count, done.files[0].lines_scanned) == (3, 2, 5)
    for options, errors in (("MAXERROR 2", 2), ("MAXERROR AS 1", 1), ("", 1)):
        with pytest.raises(CopyFailed) as caught:
            world.load(body, "t", options)
        assert caught.value.message == f"Load into table 't' failed.  {CHECK}"
        assert caught.value.code == "XX000"
        assert (caught.value.done.status, len(caught.value.done.errors)) == ("aborted", errors)
        assert caught.value.done.loaded_rows == 0
    assert world.sql("select count(*) from t") == [(3,)]


def test_ignoreallerrors_loads_whatever_can_be_loaded(world: World) -> None:
    world.sql("create table t (n int)")
    done = world.load("x\n" * 5 + "1\n", "t", "IGNOREALLERRORS")
    assert (done.loaded_rows, done.error_count) == (1, 5)


def test_a_load_that_fails_in_its_second_file_leaves_nothing_of_the_first(world: World) -> None:
    world.sql("create table t (n int)")
    world.put("in/1", "1\n" * 5000)
    world.put("in/2", "2\n" * 5000 + "x\n")
    with pytest.raises(CopyFailed):
        world.copy("t", source="/in/")
    assert world.sql("select count(*) from t") == [(0,)]


def test_a_rollback_undoes_a_copy(world: World) -> None:
    world.sql("create table t (n int)")
    with world.connection.transaction(force_rollback=True):
        assert world.load("1\n2\n", "t").loaded_rows == 2
        assert world.sql("select count(*) from t") == [(2,)]
    assert world.sql("select count(*) from t") == [(0,)]


def test_what_the_server_refuses_is_the_error_of_the_copy(world: World) -> None:
    world.sql("create table t (n int check (n < 5))")
    with pytest.raises(CopyFailed, match="violates check constraint") as caught:
        world.load("9\n", "t")
    assert caught.value.code == "23514"


def test_noload_checks_and_loads_nothing(world: World) -> None:
    world.sql("create table t (n int)")
    done = world.load("1\nx\n", "t", "NOLOAD MAXERROR 5")
    assert (done.loaded_rows, done.error_count, world.sql("select count(*) from t")) == (0, 1, [(0,)])


def test_an_object_that_vanishes_while_it_is_read_fails_the_load(world: World) -> None:
    world.sql("create table t (n int)")
    world.put("in/1", "1\n")
    world.s3.faults({"method": "GET", "key": f"{world.prefix}/in/1", "status": 403, "times": 9})
    with pytest.raises(CopyFailed, match=r"S3ServiceException:.*Status 403,Error AccessDenied"):
        world.copy("t", source="/in/")
    world.s3.faults()
    assert world.sql("select count(*) from t") == [(0,)]


# Tables and columns


def test_a_column_list_gives_the_order_and_leaves_defaults(world: World) -> None:
    world.sql("""create table t (a int, "timestamp" varchar(9), c int default 7, d int)""")
    world.load("x|1\n", """t ("timestamp", a)""")
    assert world.sql("select * from t") == [(1, "x", 7, None)]


def test_identity_columns_come_by_themselves_or_with_explicit_ids(world: World) -> None:
    world.sql("create table t (id bigint generated always as identity (start 10), v varchar(5))")
    world.load("a\nb\n", "t")
    world.load("1|c\n", "t", "EXPLICIT_IDS")
    world.load("d|2\n", "t (v, id)", "EXPLICIT_IDS")
    assert world.sql("select * from t order by id") == [(1, "c"), (2, "d"), (10, "a"), (11, "b")]
    with pytest.raises(BackendError, match="without EXPLICIT_IDS"):
        world.load("1|c\n", "t (id, v)")
    with pytest.raises(BackendError, match="EXPLICIT_IDS needs an identity column"):
        world.load("c\n", "t (v)", "EXPLICIT_IDS")


def test_varchar_counts_bytes_through_a_domain_as_well(world: World) -> None:
    world.sql("create domain name4 as varchar(4) not null")
    world.sql("create table t (v name4)")
    done = world.load("éé\nééé\n\\N\n", "t", "MAXERROR 5")
    assert [(error[0], error[2]) for error in why(done)] == [(2, 1204), (3, 1213)]


@pytest.mark.parametrize(
    ("table", "code", "message"),
    [
        ("gone", "42P01", "Cannot COPY into nonexistent table gone"),
        ("some.gone", "42P01", "Cannot COPY into nonexistent table gone"),
        ("v", "42P01", "Cannot COPY into nonexistent table v"),
        ("t (x)", "42703", 'column "x" of relation "t" does not exist'),
        ("t (n, n)", "42701", 'column "n" specified more than once'),
    ],
)
def test_a_target_that_is_not_there_is_refused(table: str, code: str, message: str, world: World) -> None:
    world.sql("create table t (n int); create view v as select * from t")
    with pytest.raises(BackendError) as caught:
        world.load("1\n", table)
    assert (caught.value.code, caught.value.message) == (code, message)


def test_a_schema_goes_before_the_table_and_not_into_the_notice(world: World) -> None:
    world.sql('create schema "my data"; create table "my data"."order" (n int)')
    done = world.load("1\n", '"my data"."order"')
    assert done.notices == ["Load into table 'order' completed, 1 record(s) loaded successfully."]
    world.sql('drop schema "my data" cascade')


def test_credentials_are_in_nothing_that_comes_back(world: World) -> None:
    world.sql("create table t (n int)")
    secret = "aws_access_key_id=AKIDEXAMPLE;aws_secret_access_key=verysecret"
    for options in (f"CREDENTIALS '{secret}'", f"ACCESS_KEY_ID 'AKIDEXAMPLE' SECRET_ACCESS_KEY 'verysecret' {ROLE} x"):
        statement = f"COPY t FROM '{world.url}/none' {options}"
        with pytest.raises(BackendError) as caught:
            copy.run(statement, world.backend, world.client, world.session)
        shown = repr(vars(caught.value)) + repr(caught.value) + repr(getattr(caught.value, "done", ""))
        assert "verysecret" not in shown
        assert "AKIDEXAMPLE" not in shown
