"""UNLOAD writes what Redshift writes: files per slice, partitions, manifests, and nothing that is not complete."""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
from collections.abc import Callable
from decimal import Decimal

import pyarrow as pa
import pytest
import zstandard
from bulk_world import ROLE, World
from dbops_lab.redshift import unload
from dbops_lab.redshift.backend import BackendError
from dbops_lab.redshift.unload import OCCUPIED, UnloadFailed

ROWS = "select n, 'row ' || n as name from generate_series(1, 100) as n"


def lines(world: World, query: str, options: str = "") -> list[str]:
    """The lines of a serial UNLOAD."""
    world.unload(query, f"PARALLEL OFF ALLOWOVERWRITE {options}", "/lines/")
    return world.get("lines/000").decode().splitlines()


# Parquet


def test_parquet_has_the_types_of_the_columns_and_every_value_as_it_was(world: World) -> None:
    world.sql(
        """create table kinds (
            flag bool, small smallint, medium int, large bigint, single real, twice float8, price numeric(12, 2),
            wide numeric(38, 0), day date, at timestamp, zoned timestamptz,
            name varchar(30), code char(3), doc jsonb)"""
    )
    world.sql(
        """insert into kinds values
            (true, -32768, -2147483648, -9223372036854775808, 1.1, 1e308, -1234567890.12,
             99999999999999999999999999999999999999, '1969-12-31', '2026-01-02 03:04:05.678901',
             '2026-01-02 03:04:05+02', E'a "quoted", line\\nand\\ttab', 'ab', '{"a": [1, null]}'),
            (false, 1, 2, 3, 'NaN', '-Infinity', 0, 0, '9999-12-31', '2026-01-01', '2026-01-01', '', '', 'null'),
            (null, null, null, null, null, null, null, null, null, null, null, null, null, null)"""
    )
    world.session.slices = 1
    world.unload("select * from kinds", "FORMAT AS PARQUET")
    table = world.parquet("0000_part_00.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "flag": "bool", "small": "int16", "medium": "int32", "large": "int64", "single": "float", "twice": "double",
        "price": "decimal128(12, 2)", "wide": "decimal128(38, 0)", "day": "date32[day]", "at": "timestamp[us]",
        "zoned": "timestamp[us, tz=UTC]", "name": "string", "code": "string", "doc": "string",
    }  # fmt: skip
    first, second, third = table.to_pylist()
    assert first == {
        "flag": True, "small": -(2**15), "medium": -(2**31), "large": -(2**63), "single": pytest.approx(1.1),
        "twice": 1e308, "price": Decimal("-1234567890.12"), "wide": Decimal("9" * 38), "day": dt.date(1969, 12, 31),
        "at": dt.datetime.fromisoformat("2026-01-02 03:04:05.678901"),
        "zoned": dt.datetime(2026, 1, 2, 1, 4, 5, tzinfo=dt.UTC),
        "name": 'a "quoted", line\nand\ttab', "code": "ab ", "doc": '{"a": [1, null]}',
    }  # fmt: skip
    assert second["single"] != second["single"]
    assert (second["twice"], second["name"], second["doc"]) == (float("-inf"), "", "null")
    assert set(third.values()) == {None}


def test_a_column_of_nulls_alone_keeps_its_rows(world: World) -> None:
    world.session.slices = 1
    assert world.unload("select null::int as n from generate_series(1, 3)", "PARQUET").rows == 3
    assert world.parquet("0000_part_00.parquet").to_pylist() == [{"n": None}] * 3


def test_a_numeric_without_scale_gets_one(world: World) -> None:
    world.session.slices = 1
    world.unload("select sum(n) as total, 1.0 / 3 as third from generate_series(1, 10) as n", "PARQUET")
    table = world.parquet("0000_part_00.parquet")
    assert str(table.schema.field("third").type) == "decimal128(38, 10)"
    assert table.to_pylist() == [{"total": 55, "third": Decimal("0.3333333333")}]


def test_a_type_that_parquet_does_not_take_is_refused(world: World) -> None:
    with pytest.raises(UnloadFailed, match='type of column "b" is not supported with PARQUET') as caught:
        world.unload("select 'x'::bytea as b", "PARQUET")
    assert caught.value.code == "0A000"


def test_reserved_words_quotes_and_twins_are_names_of_columns(world: World) -> None:
    world.session.slices = 1
    world.unload('select 1 as "timestamp", 2 as "a ""b""", 3 as same, 4 as same', "PARQUET")
    assert world.parquet("0000_part_00.parquet").schema.names == ["timestamp", 'a "b"', "same", "same"]


# Slices and names


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("PARQUET", ["0000_part_00.parquet", "0001_part_00.parquet", "0002_part_00.parquet"]),
        ("CSV", ["0000_part_00", "0001_part_00", "0002_part_00"]),
        ("GZIP", ["0000_part_00.gz", "0001_part_00.gz", "0002_part_00.gz"]),
        ("ZSTD PARALLEL ON", ["0000_part_00.zst", "0001_part_00.zst", "0002_part_00.zst"]),
        ("PARALLEL OFF", ["000"]),
        ("PARQUET PARALLEL FALSE", ["000.parquet"]),
        ("BZIP2 PARALLEL OFF", ["000.bz2"]),
        ("CSV EXTENSION 'csv' PARALLEL OFF", ["000.csv"]),
        ("GZIP EXTENSION 'csv.gz' PARALLEL OFF", ["000.csv.gz"]),
    ],
)
def test_files_are_named_by_slice_part_and_format(options: str, names: list[str], world: World) -> None:
    world.session.slices = 3
    done = world.unload(ROWS, options)
    assert world.names() == names
    assert [file.path for file in done.files] == [f"{world.url}/{name}" for name in names]
    assert (done.status, done.rows, sum(file.line_count for file in done.files)) == ("completed", 100, 100)


def test_the_prefix_goes_before_the_name_as_it_is(world: World) -> None:
    world.unload(ROWS, "PARALLEL OFF MANIFEST", "/venue_pipe_")
    assert world.names() == ["venue_pipe_000", "venue_pipe_manifest"]


def test_slices_share_the_rows_and_one_without_rows_writes_no_file(world: World) -> None:
    world.session.slices = 4
    world.unload("select 1 as n", "PARQUET", "/one/")
    world.unload(ROWS, "PARQUET", "/many/")
    assert len(world.names("one/")) == 1
    assert [world.parquet(name).num_rows for name in world.names("many/")] == [25, 25, 25, 25]


def test_a_file_grows_no_larger_than_asked(world: World) -> None:
    query = "select n, repeat(md5(n::text), 30) as text from generate_series(1, 12000) as n"
    done = world.unload(query, "PARALLEL OFF MAXFILESIZE 5 MB MANIFEST VERBOSE")
    assert [name for name in world.names() if name != "manifest"] == ["000", "001", "002"]
    assert all(file.transfer_size <= 5 << 20 for file in done.files)
    assert world.manifest()["meta"] == {"content_length": done.size, "record_count": 12000}
    text = b"".join(world.get(name) for name in ("000", "001", "002"))
    assert [int(line.split(b"|")[0]) for line in text.splitlines()] == list(range(1, 12001))


def test_parquet_is_cut_into_parts_as_well(world: World) -> None:
    query = "select n, md5(n::text) || md5((-n)::text) as text from generate_series(1, 150000) as n"
    world.session.slices = 1
    done = world.unload(query, "PARQUET MAXFILESIZE AS 5.5")
    assert [file.path.rsplit("/", 1)[1] for file in done.files] == [
        "0000_part_00.parquet",
        "0000_part_01.parquet",
    ] + [f"0000_part_{part:02d}.parquet" for part in range(2, len(done.files))]
    assert all(file.transfer_size <= 6 << 20 for file in done.files)
    assert sum(world.parquet(name).num_rows for name in world.names()) == 150000


# Manifests


def test_a_verbose_manifest_counts_and_describes_what_was_written(world: World) -> None:
    world.sql("create table t (id int, name varchar(25), code char(2), price numeric(18, 4), at timestamp)")
    world.sql("insert into t select n, 'n' || n, 'xy', n, now() from generate_series(1, 5) as n")
    done = world.unload("select * from t", "FORMAT PARQUET MANIFEST VERBOSE", "/t_")
    assert done.manifest == f"{world.url}/t_manifest"
    sizes = [len(world.get(name)) for name in ("t_0000_part_00.parquet", "t_0001_part_00.parquet")]
    assert world.manifest("t_manifest") == {
        "entries": [
            {"url": f"{world.url}/t_0000_part_00.parquet", "meta": {"content_length": sizes[0], "record_count": 2}},
            {"url": f"{world.url}/t_0001_part_00.parquet", "meta": {"content_length": sizes[1], "record_count": 3}},
        ],
        "schema": {
            "elements": [
                {"name": "id", "type": {"base": "integer"}},
                {"name": "name", "type": {"base": "character varying", "max_length": 25}},
                {"name": "code", "type": {"base": "character", "max_length": 2}},
                {"name": "price", "type": {"base": "numeric", "precision": 18, "scale": 4}},
                {"name": "at", "type": {"base": "timestamp without time zone"}},
            ]
        },
        "meta": {"content_length": sum(sizes), "record_count": 5},
        "author": {"name": "Amazon Redshift", "version": "1.0.0"},
    }


def test_a_plain_manifest_has_lengths_and_no_counts(world: World) -> None:
    world.unload(ROWS, "MANIFEST PARALLEL OFF")
    assert world.manifest() == {
        "entries": [{"url": f"{world.url}/000", "meta": {"content_length": len(world.get("000"))}}]
    }


def test_zero_rows_leave_no_file_and_no_manifest(world: World) -> None:
    for options in ("PARQUET MANIFEST VERBOSE", "CSV HEADER MANIFEST", "PARQUET PARTITION BY (n) INCLUDE MANIFEST"):
        done = world.unload(f"select * from ({ROWS}) as q where n < 0", options)
        assert (done.status, done.rows, done.files, done.manifest) == ("completed", 0, [], None)
        assert done.notices == ["UNLOAD completed, 0 record(s) unloaded successfully."]
    assert world.names() == []


# What stands at the destination


def test_a_destination_that_is_not_empty_is_refused_with_redshifts_words(world: World) -> None:
    world.put("here/other", "x")
    with pytest.raises(UnloadFailed) as caught:
        world.unload(ROWS, "PARQUET", "/here/")
    assert (caught.value.code, caught.value.message) == ("XX000", OCCUPIED)
    assert "query:     100" in caught.value.detail
    assert world.names() == ["here/other"]


def test_allowoverwrite_writes_over_what_has_the_same_name_and_keeps_the_rest(world: World) -> None:
    world.unload(ROWS, "PARALLEL OFF")
    world.put("other", "x")
    world.unload("select 1", "PARALLEL OFF ALLOWOVERWRITE")
    assert world.get("000") == b"1\n"
    assert world.names() == ["000", "other"]


def test_cleanpath_removes_what_is_under_the_prefix_and_nothing_else(world: World) -> None:
    for name in ("a/old", "a/deeper/old", "ab/kept", "kept"):
        world.put(name, "x")
    world.unload("select 1", "PARALLEL OFF CLEANPATH", "/a/")
    assert world.names() == ["a/000", "ab/kept", "kept"]


def test_cleanpath_with_partitions_empties_only_the_folders_that_get_files(world: World) -> None:
    for name in ("n=1/old", "n=2/kept"):
        world.put(name, "x")
    world.unload("select 1 as n, 'x' as x", "PARALLEL OFF PARTITION BY (n) CLEANPATH")
    assert world.names() == ["n=1/000", "n=2/kept"]


# Partitions


def test_partitions_are_hive_folders_without_the_column_in_the_files(world: World) -> None:
    query = "select n, date '2026-01-01' + n % 3 as dt, n % 2 = 0 as even from generate_series(1, 60) as n"
    done = world.unload(query, "PARQUET PARTITION BY (dt, even) MANIFEST VERBOSE", "/events")
    folders = {name.rsplit("/", 1)[0] for name in world.names("events/") if name != "events/manifest"}
    assert folders == {f"events/dt=2026-01-0{day}/even={even}" for day in (1, 2, 3) for even in ("true", "false")}
    assert len(done.files) == 12
    table = world.parquet("events/dt=2026-01-01/even=true/0000_part_00.parquet")
    assert table.schema.names == ["n"]
    found = [n for name in world.names("events/dt=2026-01-01/even=true/") for n in world.parquet(name)["n"].to_pylist()]
    assert sorted(found) == [n for n in range(1, 61) if n % 3 == 0 and n % 2 == 0]
    assert world.manifest("events/manifest")["meta"]["record_count"] == 60


def test_include_keeps_the_column_in_the_files(world: World) -> None:
    world.unload("select n, n % 2 as k from generate_series(1, 10) as n", "PARQUET PARTITION BY (k) INCLUDE")
    assert world.parquet("k=1/0000_part_00.parquet").schema.names == ["n", "k"]
    assert set(world.parquet("k=1/0000_part_00.parquet")["k"].to_pylist()) == {1}


@pytest.mark.parametrize("options", ["PARQUET", "CSV", ""])
def test_null_and_marks_in_partition_values_make_folders_that_hive_reads(options: str, world: World) -> None:
    query = "select 1 as n, v from (values (null), ('a/b=c'), ('d e'), (E'f\\tg'), ('')) as t(v)"
    world.unload(query, options + " PARTITION BY (v)")
    folders = {name.split("/")[0] for name in world.names()}
    assert folders == {"v=__HIVE_DEFAULT_PARTITION__", "v=a%2Fb%3Dc", "v=d e", "v=f%09g"}


def test_partitions_of_text_files_hold_their_rows(world: World) -> None:
    query = "select n % 2 as k, n, 'x' || n as x from generate_series(1, 5) as n"
    world.unload(query, "CSV HEADER PARALLEL OFF PARTITION BY (k)")
    assert world.get("k=1/000") == b"n,x\n1,x1\n3,x3\n5,x5\n"
    assert world.get("k=0/000") == b"n,x\n2,x2\n4,x4\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("PARTITION BY (missing)", 'column "missing" does not exist'),
        ("PARTITION BY (n, name)", "At least one column"),
    ],
)
def test_partitions_that_cannot_be_are_refused(options: str, message: str, world: World) -> None:
    with pytest.raises(UnloadFailed, match=message):
        world.unload(ROWS, options)


# Text


def test_delimited_text_has_pipes_and_nothing_around_its_fields(world: World) -> None:
    query = (
        "select 1, true, null::int, 'a b', 1.50::numeric(5,2), date '2026-01-02',"
        " timestamp '2026-01-02 03:04:05.5', 0.1::float8"
    )
    assert lines(world, query) == ["1|t||a b|1.50|2026-01-02|2026-01-02 03:04:05.5|0.1"]


def test_null_and_the_empty_string_look_alike_in_text_unless_null_has_a_name(world: World) -> None:
    query = "select null::text, '', 'x'"
    assert lines(world, query) == ["||x"]
    assert lines(world, query, "CSV") == [",,x"]
    assert lines(world, query, "ADDQUOTES") == ['""|""|"x"']
    assert lines(world, query, "NULL AS '@null@'") == ["@null@||x"]
    assert lines(world, query, r"CSV NULL '\N'") == [r"\N,,x"]


def test_escape_marks_what_would_end_a_field_or_a_row(world: World) -> None:
    query = r"select E'a|b\\c\nd', 'it''s', chr(34) || chr(34), 5"
    world.unload(query, "ESCAPE PARALLEL OFF ALLOWOVERWRITE")
    assert world.get("000").decode() == 'a\\|b\\\\c\\\nd|it\'s|""|5\n'
    world.unload(query, "ESCAPE ADDQUOTES PARALLEL OFF ALLOWOVERWRITE")
    assert world.get("000").decode() == '"a\\|b\\\\c\\\nd"|"it\\\'s"|"\\"\\""|"5"\n'


def test_csv_quotes_only_what_needs_it(world: World) -> None:
    query = "select 1, 'a,b', 'say \"hi\"', E'x\\ny', 'plain', E'back\\\\slash', E'tab\\t'"
    assert lines(world, query, "CSV") == ['1,"a,b","say ""hi""","x', 'y",plain,back\\slash,tab\t']
    assert lines(world, query, "CSV DELIMITER '|'")[0].startswith('1|a,b|"say ""hi"""')
    assert lines(world, "select 'a]b', 'c^d', 'e-f'", "CSV DELIMITER ']'") == ['"a]b"]c^d]e-f']
    assert lines(world, "select date '2026-01-02', 1.5::numeric(3,1)", "CSV DELIMITER '-'") == ['"2026-01-02"-1.5']


def test_a_header_stands_in_every_file_and_counts(world: World) -> None:
    done = world.unload('select n as "a,b", n from generate_series(1, 4) as n', "CSV HEADER MANIFEST VERBOSE")
    assert world.get("0000_part_00").decode() == '"a,b",n\n1,1\n2,2\n'
    assert [file.line_count for file in done.files] == [3, 3]
    assert (done.rows, world.manifest()["meta"]["record_count"]) == (4, 6)


def test_super_is_json_and_null_is_jsons(world: World) -> None:
    assert lines(world, """select '{"a": 1}'::jsonb, null::jsonb""", "NULL AS 'nothing'") == ['{"a": 1}|null']


@pytest.mark.parametrize(
    ("option", "unpack"),
    [
        ("GZIP", gzip.decompress),
        ("BZIP2", bz2.decompress),
        ("ZSTD", lambda body: zstandard.ZstdDecompressor().stream_reader(body).read()),
    ],
)
def test_compressed_text_is_the_same_text(option: str, unpack: Callable[[bytes], bytes], world: World) -> None:
    world.unload(ROWS, f"PARALLEL OFF HEADER {option}")
    text = unpack(world.get(world.names()[0]))
    assert text.startswith(b"n|name\n1|row 1\n")
    assert text.count(b"\n") == 101


# Refusals and failures


@pytest.mark.parametrize(
    "query", ["select 1 limit 1", "select top 5 n from t", "select 1 union all select 2 order by 1 limit 1"]
)
def test_a_limit_in_the_outer_select_is_refused(query: str, world: World) -> None:
    with pytest.raises(BackendError, match=r"Limit clause is not supported") as caught:
        world.unload(query)
    assert caught.value.code == "0A000"


def test_a_limit_further_in_is_fine(world: World) -> None:
    assert world.unload(f"select * from ({ROWS} limit 3) as q where name <> 'limit'", "PARQUET").rows == 3


def test_a_slice_that_fails_leaves_the_files_of_the_others_and_no_manifest(world: World) -> None:
    world.session.slices, world.session.faults = 4, {"unload_slice": 1}
    with pytest.raises(UnloadFailed, match="fail slice 1") as caught:
        world.unload(ROWS, "PARQUET MANIFEST VERBOSE")
    assert world.names() == ["0000_part_00.parquet", "0002_part_00.parquet", "0003_part_00.parquet"]
    done = caught.value.done
    assert (done.status, done.rows, len(done.files)) == ("aborted", 0, 3)
    assert world.sql("select 1") == [(1,)]


def test_an_s3_that_refuses_is_an_error_in_redshifts_words_and_leaves_no_manifest(world: World) -> None:
    world.s3.faults({"method": "PUT", "key": f"{world.prefix}/0001", "status": 503, "times": 9})
    with pytest.raises(UnloadFailed, match=r"S3ServiceException:.*Status 503,Error SlowDown"):
        world.unload(ROWS, "CSV MANIFEST")
    world.s3.faults()
    assert world.names() == ["0000_part_00"]
    assert world.sql("select 1") == [(1,)]


def test_a_bucket_that_is_not_there_is_named_by_s3s_error(world: World) -> None:
    world.url = "s3://no-such-bucket-of-the-lab/x"
    with pytest.raises(UnloadFailed, match=r"S3ServiceException:.*Error NoSuchBucket"):
        world.unload(ROWS)


@pytest.mark.parametrize("options", ["PARQUET", "CSV"])
def test_a_query_that_fails_in_the_middle_fails_with_its_own_error(options: str, world: World) -> None:
    query = "select n, 1 / (150000 - n) as x, repeat('x', 50) as t from generate_series(1, 200000) as n"
    with pytest.raises(UnloadFailed, match="division by zero") as caught:
        world.unload(query, options)
    assert caught.value.code == "22012"
    assert world.names() == []
    assert world.sql("select 1") == [(1,)]


def test_unload_sees_what_its_own_transaction_wrote(world: World) -> None:
    world.sql("create table t (n int)")
    with world.connection.transaction(force_rollback=True):
        world.sql("insert into t values (1), (2)")
        assert world.unload("select * from t", "PARQUET").rows == 2
    assert world.sql("select count(*) from t") == [(0,)]


def test_the_query_goes_through_the_translation_of_the_session(world: World) -> None:
    world.session.translate = lambda sql: sql.replace("nvl(", "coalesce(")
    assert lines(world, "select nvl(null, 5)") == ["5"]


@pytest.mark.parametrize(
    "query",
    [
        "'select ''NV'' as s'",
        r"'select \'NV\' as s'",
        "$$select 'NV' as s; $$",
        "$q$select $$NV$$ as s -- end$q$",
    ],
)
def test_the_query_may_be_quoted_in_every_way(query: str, world: World) -> None:
    statement = f"UNLOAD ({query}) TO '{world.url}/' {ROLE} PARALLEL OFF;"
    unload.run(statement, world.backend, world.client, world.session)
    assert world.get("000") == b"NV\n"


def test_memory_is_a_row_group_per_slice_however_many_rows(world: World) -> None:
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    world.session.slices = 2
    query = "select n, md5(n::text) as a, md5((n + 1)::text) as b from generate_series(1, 700000) as n"
    done = world.unload(query, "PARQUET")
    assert done.size > 45 << 20
    assert pool.bytes_allocated() - before < 8 << 20
    assert pool.max_memory() - before < 160 << 20


def test_a_delete_in_the_same_transaction_removes_what_was_unloaded(world: World) -> None:
    world.sql("create table t (n int)")
    world.sql("insert into t select generate_series(1, 10)")
    with world.connection.transaction():
        world.sql("set transaction isolation level repeatable read")
        rows = world.unload("select * from t where n <= 5", "PARQUET").rows
        deleted = world.connection.execute("delete from t where n <= 5").rowcount
    assert rows == deleted == 5


def test_times_keep_their_fractions_and_their_moment_in_any_time_zone(world: World) -> None:
    world.session.slices = 1
    world.sql("set timezone to 'Asia/Kolkata'")
    query = (
        "select timestamp '2026-01-01' + n * interval '1 microsecond' as at,"
        " timestamptz '2026-01-01 00:00:00+00' + n * interval '1 microsecond' as zoned"
        " from unnest(array[0, 1, 10, 12000, 500000, 123456]) as n"
    )
    try:
        world.unload(query, "PARQUET")
    finally:
        world.sql("reset timezone")
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    moments = [start + dt.timedelta(microseconds=n) for n in (0, 1, 10, 12000, 500000, 123456)]
    table = world.parquet("0000_part_00.parquet")
    assert table["zoned"].to_pylist() == moments
    assert table["at"].to_pylist() == [moment.replace(tzinfo=None) for moment in moments]


def test_a_date_that_parquet_readers_cannot_hold_is_an_error(world: World) -> None:
    with pytest.raises(UnloadFailed, match=r"Cannot write a value to PARQUET: .*infinity"):
        world.unload("select date 'infinity' as d", "PARQUET")
    assert world.names() == []
    assert world.sql("select 1") == [(1,)]
