"""Validation against the lab's application: what it finds, what it must not take for drift, what it says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aerospike
import pytest
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError
from dbops.platform.sync import Expiry, SyncColumn, SyncPair
from dbops.sync import validate as validation
from dbops.sync.postgres import ReplicaBehind, Snapshot, TableWrong, require_current
from dbops.sync.records import Records
from dbops.sync.repair import Repair, directly, plan_repair
from dbops_lab.testing import LabApp
from sync_world import access, named, of, pairs, sync, validate


@pytest.fixture
def app(lab_app: LabApp) -> Iterator[LabApp]:
    yield lab_app
    lab_app.reset()


@pytest.fixture(scope="module")
def client(lab_app: LabApp) -> Iterator[aerospike.Client]:
    made = lab_app.cluster.connect()
    yield made
    made.close()


class Table:
    """A table of a test's own and its set."""

    def __init__(self, app: LabApp, client: aerospike.Client) -> None:
        self.app, self.client = app, client

    def fill(self, columns: str, *rows: tuple[Any, ...]) -> None:
        with self.app.database.session() as cursor:
            cursor.execute("drop table if exists odd")
            cursor.execute(f"create table odd ({columns})")
            for row in rows:
                cursor.execute(f"insert into odd values ({', '.join(['%s'] * len(row))})", row)
        self.client.truncate("bidder", "odd", 0)

    def put(self, key: Any, /, **bins: Any) -> None:
        policy = {"key": aerospike.POLICY_KEY_SEND, "exists": aerospike.POLICY_EXISTS_CREATE_OR_REPLACE}
        self.client.put(("bidder", "odd", key), bins, policy=policy)

    def pair(self, *columns: SyncColumn, **more: Any) -> SyncPair:
        made = {
            "name": "odd", "table": "odd", "clusters": ("app",), "namespace": "bidder", "set": "odd", "key": "{id}",
            "lag": "0s", "columns": columns or (SyncColumn(column="v", bin="v"),),
        }  # fmt: skip
        return SyncPair(**(made | more))


@pytest.fixture
def table(lab_app: LabApp, client: aerospike.Client) -> Iterator[Table]:
    yield Table(lab_app, client)
    client.truncate("bidder", "odd", 0)
    client.truncate("bidder", "odd", 0)


def test_what_was_published_is_all_the_same(lab_app: LabApp) -> None:
    for name, pair in pairs().items():
        result = validate(lab_app, pair)
        assert result.ok, (name, result.message, result.differences[:3])
        assert result.rows == result.records > 0
        assert result.unmapped == ()


FORMS = [
    ("integer", "bigint", 2**62 + 1, 2**62 + 1, 2**62),
    ("integer", "smallint", -7, -7, 7),
    ("integer", "numeric(12,2)", "3.00", 3, 4),
    ("double", "double precision", 0.1, 0.1, 0.1 + 2**-55),
    ("double", "numeric(12,2)", "1234567.89", 1234567.89, 1234567.88),
    ("double", "double precision", -0.0, 0.0, 1e-300),
    ("double", "integer", 5, 5, 5.5),
    ("scaled", "numeric(12,2)", "9999999999.99", 9_999_999_999_990_000, 9_999_999_999_990_001),
    ("scaled", "numeric(12,2)", "-0.01", -10_000, 10_000),
    ("scaled", "numeric", "1000000", 1_000_000_000_000, 1_000_000_000_001),
    ("decimal", "numeric(8,3)", "5.500", "5.5", "5.501"),
    ("decimal", "numeric", "12345678901234567890.000000001", "12345678901234567890.000000001", "12345678901234567890"),
    ("decimal", "numeric", "0", "0.00", "0.01"),
    ("decimal", "numeric", "-1000", "-1e3", "1e3"),
    ("decimal", "numeric", "-10", -10, -9),
    ("bool", "boolean", True, True, False),
    ("bool", "boolean", False, 0, 1),
    ("bool_int", "boolean", True, 1, 0),
    ("bool_int", "boolean", False, False, True),
    ("epoch_us", "timestamptz", "2026-11-25 12:00:00.123456+02", 1795600800123456, 1795600800123457),
    ("epoch_ms", "timestamptz", "1969-12-31 23:59:59.9999+00", -1, 0),
    ("epoch_s", "timestamp", "2026-03-29 01:30:00", 1774747800, 1774744200),
    ("iso", "timestamptz", "2026-10-25 02:30:00+01", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"),
    ("iso", "timestamptz", "2026-10-25 02:30:00.5+01", "2026-10-25T02:30:00.500+01:00",
     "2026-10-25T02:30:00.500+02:00"),
    ("text", "text", "naïve ☕ \"quoted\"\nline\ttab\\", "nai\u0308ve ☕ \"quoted\"\nline\ttab\\", "naive"),
    ("text", "text", "각 ḍ̇", "\u1100\u1161\u11a8 d\u0307\u0323", "가"),
    ("text", "text", "", "", " "),
    ("text", "char(5)", "ab", "ab", "ab   "),
    ("text", "uuid", "0B3F5A52-4E1E-4C35-8B4E-2F6A7B8C9D0E", "0b3f5a52-4e1e-4c35-8b4e-2f6a7b8c9d0e", "0b"),
    ("text", "delivery_status", "paused", "paused", "active"),
    ("text", "date", "2026-02-28", "2026-02-28", "2026-03-01"),
    ("json", "jsonb", '{"a": [1, 2.5, null], "b": {"x": "é"}}', {"b": {"x": "e\u0301"}, "a": [1, 2.5, None]},
     {"a": [2.5, 1, None], "b": {"x": "é"}}),
    ("json", "jsonb", "[]", [], {}),
    ("json", "text[]", ["a,b", 'q"'], ["a,b", 'q"'], ["a", "b", 'q"']),
    ("json", "jsonb", '{"big": 12345678901234567, "neg": -200, "t": true}',
     {"t": True, "neg": -200, "big": 12345678901234567}, {"t": 1, "neg": -200, "big": 12345678901234567}),
    ("json_text", "jsonb", '{"a": 1.0, "b": "\\u00e9\\n"}', '{ "b" : "\\u00e9\\n",\n"a":1 }', '{"a": 1, "b": "e"}'),
    ("json_text", "text", '{"k": "\\ud83d\\ude00"}', '{"k":"😀"}', '{"k":":)"}'),
    ("json", "jsonb", "1e3", 1000, 1001),
    ("json", "jsonb", "[1500000000000000001]", [1500000000000000001], [1500000000000000000]),
    ("json", "jsonb", "[-9223372036854775808, 0]", [-(2**63), 0], [-(2**63) + 1, 0]),
    ("json", "jsonb", "[9210000000000000000]", [9.21e18], [9.22e18]),
    ("json_text", "jsonb", "-9210000000000000000", "-9.21e18", "9.21e18"),
    ("json", "jsonb", '"5"', "5", 5),
    ("json", "jsonb", '"{}"', "{}", {}),
    ("json", "jsonb", '"[urgent] x"', "[urgent] x", '"[urgent] x"'),
    ("json", "jsonb", '{"a": [1]}', {"a": [1.0]}, '{"a":[1]}'),
    ("json_text", "jsonb", "9223372036854775807", "9223372036854775807", "9223372036854775806"),
    *(("json_text", "jsonb", '{"a": [1, true]}', '{"a":[1,true]}', broken) for broken in (
        '{"a":[1,true],}', '{"a" [1,true]}', '{"a":[1,true}', '{"a":[1,trxe]}', '{"a":[1 true]}', '{"a",[1,true]}',
        '{:"a":[1,true]}', '{"a":[1,true]}}', '{"a":[1,,true]}', ',{"a":[1,true]}',
        '{"a":[01,true]}', '{"a":[1.,true]}', '{"a":[1e,true]}', '{"\\a":[1,true]}', '{"\\u00m1":[1,true]}',
        '{"a":[1,true]}\v',
    )),
    ("json_text", "jsonb", '["a\\nb", 0.5]', '["a\\nb",0.5]', '["a\nb",0.5]'),
    ("json_text", "jsonb", '"\U00011841"', '"\\ud806\\udc41"', '"\\ud83d\\u0041"'),
]  # fmt: skip


@pytest.mark.parametrize(("form", "kind", "value", "same", "other"), FORMS)
def test_values_are_compared_by_what_they_mean(
    table: Table, form: str, kind: str, value: Any, same: Any, other: Any
) -> None:
    table.fill(f"id text primary key, v {kind}", ("same", value), ("other", value), ("null", None), ("bin", None))
    table.put("same", v=same, more=1)
    table.put("other", v=other)
    table.put("null", more=1)
    table.put("bin", v=same)
    pair = table.pair(SyncColumn(column="v", bin="v", form=form, scale=6 if form == "scaled" else 0))  # type: ignore[arg-type]
    result = validate(table.app, pair)
    assert named(result) == {("different", "other"), ("different", "bin")}, result.differences
    (field,) = of(result, "bin").fields
    assert (field.column, field.postgres) == ("v", None)
    assert field.aerospike is not None


def test_a_json_null_is_no_value(table: Table) -> None:
    table.fill("id text primary key, v jsonb, w text", ("k", "null", "x"), ("list", "[null]", "x"))
    table.put("k", w="x")
    table.put("list", w="x")
    pair = table.pair(SyncColumn(column="v", bin="v", form="json"), SyncColumn(column="w", bin="w"))
    assert named(validate(table.app, pair)) == {("different", "list")}


def test_a_default_has_no_bin_and_exchanged_values_are_noticed(table: Table) -> None:
    table.fill("id text primary key, a text, b text", ("1", "EUR", "x"), ("2", "x", "y"), ("3", "EUR", "z"))
    table.put("1", b="x")
    table.put("2", a="y", b="x")
    table.put("3", a="USD", b="z")
    pair = table.pair(SyncColumn(column="a", bin="a", default="EUR"), SyncColumn(column="b", bin="b", masked=True))
    result = validate(table.app, pair)
    assert named(result) == {("different", "2"), ("different", "3")}
    assert [(one.column, one.postgres, one.aerospike) for one in of(result, "2").fields] == [
        ("a", "x", "y"), ("b", "***", "***"),
    ]  # fmt: skip
    assert [(one.column, one.postgres, one.aerospike) for one in of(result, "3").fields] == [("a", "EUR", "USD")]


def test_integer_keys_keys_that_are_not_stored_and_composed_ones(table: Table) -> None:
    table.fill("id bigint primary key, v text", (1, "a"), (2, "b"), (3, "c"))
    for key, value in ((1, "a"), (2, "x"), (9, "extra")):
        table.client.put(("bidder", "odd", key), {"v": value})  # the client's default: the key is not stored
    result = validate(table.app, table.pair(key_type="integer"))
    extra = next(one for one in result.differences if one.kind == "extra")
    assert named(result) == {("different", "2"), ("missing", "3"), ("extra", "")}
    assert extra.digest == bytes(aerospike.calc_digest("bidder", "odd", 9)).hex()

    table.fill("a integer, b date, v text", (1, "2026-11-25", "x"), (2, "2026-11-25", "y"))
    table.put("1/25.11.2026", v="x")
    table.put("2/25.11.2026", v="z")
    table.put("3/25.11.2026", v="z")
    result = validate(table.app, table.pair(key="{a}/{b:DD.MM.YYYY}"))
    assert named(result) == {("different", "2/25.11.2026"), ("extra", "3/25.11.2026")}


def test_rows_with_one_key_are_counted_as_duplicates(table: Table) -> None:
    table.fill("id text, v text", ("1", "a"), ("1", "a"), ("2", "b"), ("2", "c"), ("3", "d"))
    for key, value in (("1", "a"), ("2", "x"), ("3", "d")):
        table.put(key, v=value)
    result = validate(table.app, table.pair())
    assert (result.duplicates, result.different, result.missing, result.extra) == (2, 1, 0, 0)
    assert (result.rows, result.records) == (5, 3)


def test_deleted_and_expired_rows_have_no_record(table: Table) -> None:
    now = datetime.now(UTC)
    table.fill(
        "id text primary key, v text, state text, ends timestamptz",
        ("gone", "a", "deleted", None), ("over", "a", "on", now - timedelta(days=2)), ("grace", "a", "on", now),
        ("back", "a", "deleted", None), ("null", "a", None, None),
    )  # fmt: skip
    for key in ("grace", "back", "null"):
        table.put(key, v="a")
    pair = table.pair(deleted={"state": ("deleted",)}, expires=Expiry(column="ends", after="1d"))
    result = validate(table.app, pair)
    assert named(result) == {("extra", "back")}
    assert result.rows == 2
    policy = {"ttl": 1, "key": aerospike.POLICY_KEY_SEND}
    table.client.put(("bidder", "odd", "over"), {"v": "a"}, policy=policy)

    def wait(seconds: float) -> None:
        import time

        time.sleep(2.5)

    assert named(validate(table.app, pair, sleep=wait)) == {("extra", "back")}, "its time was over by the second look"


def test_what_changes_between_the_looks_is_in_flight_and_a_record_of_an_unchanged_row_is_drift(table: Table) -> None:
    keys = ("late", "lost", "busy", "forgotten", "fought over")
    table.fill("id text primary key, v text", *((key, "new") for key in keys))
    for key in keys:
        table.put(key, v="old")
    looks = []

    def between(seconds: float) -> None:
        looks.append(seconds)
        table.put("late", v="new")
        table.put("busy", v=f"old {len(looks)}")
        table.put("fought over", v=f"theirs {len(looks)}")
        with table.app.database.session() as cursor:
            cursor.execute("update odd set v = v || '1' where id in ('busy', 'forgotten')")

    result = validate(table.app, table.pair(), sleep=between, lag=timedelta(seconds=3))
    assert named(result) == {("different", "lost"), ("different", "forgotten"), ("different", "fought over")}
    assert (result.in_flight, looks) == (2, [3.0, 3.0, 3.0])


def test_a_change_that_is_carried_while_it_is_looked_at_is_no_drift(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.fill("id text primary key, v text", ("k", "r1"))
    table.put("k", v="r0")
    collect, looks = Records.collect, []

    def racing(self: Records, mask: Any) -> Any:
        looks.append(mask)
        if len(looks) == 2:  # after the snapshot of the second look
            table.put("k", v="r2")
            with table.app.database.session() as cursor:
                cursor.execute("update odd set v = 'r2'")
        return collect(self, mask)

    monkeypatch.setattr(Records, "collect", racing)
    result = validate(table.app, table.pair(), sleep=lambda seconds: table.put("k", v="r1") if len(looks) < 2 else None)
    assert (result.drift, result.in_flight, len(looks)) == (0, 1, 3)


def test_rows_that_make_the_same_key_of_other_values_are_duplicates(table: Table) -> None:
    rows = (("1", "2026-11-25 01:00+00", "x"), ("1", "2026-11-25 02:00+00", "x"))
    table.fill("a text, t timestamptz, v text", *rows)
    table.put("1:20261125", v="x")
    result = validate(table.app, table.pair(key="{a}:{t:YYYYMMDD}"), sleep=lambda seconds: None)
    assert (result.duplicates, result.in_flight) == (1, 0)


def test_of_very_many_differences_those_that_move_are_looked_at_by_themselves(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "FEW", 8)
    table.fill("id text primary key, v text", *((f"k{n:02}", "a") for n in range(30)))
    looks: list[float] = []

    def between(seconds: float) -> None:
        looks.append(seconds)
        for n in range(20):
            table.put(f"k{n:02}", v="a" if len(looks) == 1 else "b" if n in (1, 2) else "a")
        if len(looks) == 1:
            with table.app.database.session() as cursor:
                cursor.execute("update odd set v = 'b' where id in ('k01', 'k02')")

    result = validate(table.app, table.pair(), sleep=between)
    assert named(result) == {("missing", f"k{n:02}") for n in range(20, 30)}
    assert (result.missing, result.different, result.in_flight) == (10, 0, 20)

    looks.clear()
    for n in range(30):
        table.put(f"k{n:02}", v="c" if n < 15 else "a")
    few = validate(table.app, table.pair(), sleep=lambda seconds: None, listed=4)
    assert few.different == 15
    assert len(few.differences) == 4
    assert all(one.key and one.fields for one in few.differences), "those whose keys were looked up are listed"


def test_a_cluster_that_changes_during_the_second_look_is_told(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.fill("id text primary key, v text", ("k", "new"))
    table.put("k", v="old")
    states = iter(["a", "a", "a", "b"])
    monkeypatch.setattr(Records, "state", lambda self: next(states))
    with pytest.raises(validation.ClusterChanged, match="changed while it was read"):
        validate(table.app, table.pair(), sleep=lambda seconds: None)


def test_an_error_of_a_value_does_not_show_it(table: Table) -> None:
    table.fill("id text primary key, v text", ("k", 's3cret"-tail\nmore-tail'))
    with pytest.raises(TableWrong, match="invalid input syntax") as told:
        validate(table.app, table.pair(SyncColumn(column="v", bin="v", form="integer", masked=True)))
    assert "s3cret" not in str(told.value)
    assert "tail" not in str(told.value)


def test_a_window_of_changes_looks_at_what_changed(app: LabApp, client: aerospike.Client) -> None:
    with app.database.session() as cursor:
        cursor.execute("select id::text from campaigns where status = 'active' and ends_at is null limit 3")
        one, two, three = (row[0] for row in cursor.fetchall())
        since = datetime.now(UTC)
        cursor.execute("update campaigns set name = name || '!' where id::text in (%s, %s)", [one, two])
    app.syncer.publish("campaigns", [one])
    client.remove(("bidder", "orders", three))
    result = validate(app, pairs()["campaigns"], since=since - timedelta(seconds=5), sleep=lambda seconds: None)
    assert named(result) == {("different", two)}
    assert (result.rows, result.records) == (2, 2)


def test_slices_add_up_to_the_whole(lab_app: LabApp) -> None:
    app = lab_app
    pair = pairs()["creatives"]
    whole = validate(app, pair)
    parts = [validate(app, pair, partitions=range(first, first + 1024)) for first in range(0, 4096, 1024)]
    assert sum(one.rows for one in parts) == whole.rows
    assert sum(one.records for one in parts) == whole.records
    assert all(one.rows for one in parts)


def test_when_all_differ_all_are_counted_and_some_are_listed(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "FEW", 50)
    monkeypatch.setattr(validation, "BATCH", 100)
    table.fill("id text primary key, v text", *((f"k{n}", "new") for n in range(300)))
    for n in range(200):
        table.put(f"k{n}", v="old")
    table.put("more", v="x")
    result = validate(table.app, table.pair(), listed=20)
    assert (result.different, result.missing, result.extra) == (200, 100, 1)
    assert (result.rows, result.records, len(result.differences)) == (300, 201, 20)
    assert all(one.key for one in result.differences if one.kind != "extra")


def test_a_table_that_is_not_as_the_pair_says_is_refused_with_what_to_do(table: Table) -> None:
    table.fill("id text primary key, v text, w text, x text", ("1", "abc", "", ""))
    with pytest.raises(TableWrong, match="no such table; correct the pair odd"):
        validate(table.app, table.pair(table="none"))
    with pytest.raises(TableWrong, match="it has no column y; correct"):
        validate(table.app, table.pair(SyncColumn(column="y", bin="y")))
    with pytest.raises(TableWrong, match="a column's type is not what the pair says"):
        validate(table.app, table.pair(SyncColumn(column="v", bin="v", form="integer")))
    assert validate(table.app, table.pair(ignored=("w",))).unmapped == ("x",)
    table.fill("id text, v text", (None, "abc"))
    with pytest.raises(TableWrong, match="1 rows have a NULL in id, the key"):
        validate(table.app, table.pair())


def test_a_set_that_was_renamed_is_one_without_records(table: Table) -> None:
    table.fill("id text primary key, v text", ("1", "a"), ("2", "b"))
    result = validate(table.app, table.pair(set="renamed"))
    assert (result.missing, result.records) == (2, 0)


def test_large_values_and_bin_selection(table: Table) -> None:
    text = "ä" * 200_000
    table.fill("id text primary key, v text", ("1", text), ("2", text))
    table.put("1", v=text, more="x" * 1000)
    table.put("2", v=text + "!", more="x")
    result = validate(table.app, table.pair(select_bins=True))
    assert named(result) == {("different", "2")}
    (field,) = of(result, "2").fields
    assert field.postgres is not None
    assert len(field.postgres) < 400


def test_a_replica_that_is_behind_says_nothing() -> None:
    info = ConnectionInfo("dbops_app")
    require_current(info, None, timedelta(seconds=60))
    require_current(info, 59.0, timedelta(seconds=60))
    with pytest.raises(ReplicaBehind, match=r"2 min behind .*wait, or name the primary"):
        require_current(info, 120.0, timedelta(seconds=60))


# ---------------------------------------------------------------- direct repairs


def repaired(table: Table, pair: SyncPair, plan: list[Repair]) -> dict[str, int]:
    return directly(sync(), pair, table.app.info(), access(table.app), plan)


def test_an_extra_record_whose_row_came_back_stays(table: Table) -> None:
    pair = table.pair(key="{a}:{b}")
    table.fill("a text, b text, v text", ("9", "9", "z"))
    table.put("1:2", v="old")
    table.put("5:5", v="extra")
    table.put("9:9", v="z")
    plan = plan_repair([validate(table.app, pair, sleep=lambda seconds: None)], 10)
    assert {(one.kind, one.key) for one in plan} == {("extra", "1:2"), ("extra", "5:5")}
    with table.app.database.session() as cursor:
        cursor.execute("insert into odd values ('1', '2', 'new')")
    assert repaired(table, pair, plan) == {"published": 1, "removed": 1}
    result = validate(table.app, pair, sleep=lambda seconds: None)
    assert (result.ok, result.records) == (True, 2)


def test_what_somebody_writes_during_a_repair_is_left(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.fill("id text primary key, v text", ("different", "row"), ("missing", "row"))
    table.put("different", v="old")
    table.put("extra", v="old")
    plan = plan_repair([validate(table.app, table.pair(), sleep=lambda seconds: None)], 10)
    assert len(plan) == 3
    begin = Snapshot._begin

    def late(self: Snapshot, *words: Any) -> None:
        begin(self, *words)
        for key in ("different", "missing", "extra"):  # a newer row that the syncer carried
            table.put(key, v="newest")

    monkeypatch.setattr(Snapshot, "_begin", late)
    assert repaired(table, table.pair(), plan) == {"published": 0, "removed": 0}
    for key in ("different", "missing", "extra"):
        assert table.client.get(("bidder", "odd", key))[2] == {"v": "newest"}


def test_a_repair_writes_the_type_that_a_bin_has_and_skips_a_row_without_values(table: Table) -> None:
    table.fill(
        "id text primary key, v boolean, w text", ("k", True, "new"), ("empty", None, None), ("last", False, "x")
    )
    table.put("k", v=1, w="old")
    pair = table.pair(SyncColumn(column="v", bin="v", form="bool_int"), SyncColumn(column="w", bin="w"))
    plan = plan_repair([validate(table.app, pair, sleep=lambda seconds: None)], 10)
    assert repaired(table, pair, plan) == {"published": 2, "removed": 0}
    found = {key: table.client.get(("bidder", "odd", key))[2] for key in ("k", "last")}
    assert {key: (type(bins["v"]), bins["v"]) for key, bins in found.items()} == {"k": (int, 1), "last": (int, 0)}


def test_a_masked_key_is_refused() -> None:
    with pytest.raises(ValueError, match="id is part of the key, by which records are named; it cannot be masked"):
        SyncPair.model_validate({
            "name": "odd", "table": "odd", "clusters": ["app"], "namespace": "bidder", "set": "odd", "key": "{id}",
            "lag": "0s", "columns": [{"column": "id", "bin": "id", "masked": True}],
        })  # fmt: skip


def test_nothing_is_repaired_from_a_replica(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.fill("id text primary key, v text", ("k", "row"))
    plan = plan_repair([validate(table.app, table.pair(), sleep=lambda seconds: None)], 10)
    begin = Snapshot._begin

    def replica(self: Snapshot, *words: Any) -> None:
        begin(self, *words)
        self.is_replica = True

    monkeypatch.setattr(Snapshot, "_begin", replica)
    with pytest.raises(ConfigurationError, match="leads to a replica"):
        repaired(table, table.pair(), plan)
    waits: list[float] = []
    validate(
        table.app, table.pair(), sleep=waits.append, lag=timedelta(seconds=3), max_replica_lag=timedelta(seconds=9)
    )
    assert waits == [12.0], "a change may wait for the replica before the syncer's time counts"
