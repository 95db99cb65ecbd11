"""Archival against the stand-in: plans, what lies in the bucket, days with tables of their own, restores, queries."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest
from archive_world import DAY, NOW, Hooked, World, world
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError
from dbops.platform import ArchiveTable, LegalHold
from dbops.redshift.archive import NotExpired
from dbops.redshift.archive_parts import datasets
from dbops.redshift.archive_plan import MOST_DAYS, ArchivePlan, plan_archive
from dbops.redshift.archive_query import Aggregate, Condition, Query, run_query, verify_part
from dbops.redshift.archive_restore import (
    CannotAttach,
    Frozen,
    NotArchived,
    RestoreDiffers,
    attach_day,
    plan_restore,
    require_attachable,
    restore_day,
)
from dbops.redshift.archive_upkeep import VacuumBusy, reclaim
from dbops.redshift.session import ConnectorSession, Row, StatementRefused, open_session
from dbops.sql import DIRECTORY
from dbops_lab.testing import LabRedshift, LabS3

D = timedelta(days=1)
TODAY = NOW.date()
LATER = NOW + 8 * D


@pytest.fixture
def lab(lab_redshift: LabRedshift, lab_s3: LabS3) -> World:
    made = world(lab_redshift, lab_s3)
    made.create()
    return made


class Counted(ConnectorSession):
    """A session that keeps what it asks."""

    asked: list[str]

    def rows(self, sql: str, *values: Any) -> list[Row]:
        vars(self).setdefault("asked", []).append(sql)
        return super().rows(sql, *values)


def planned(lab: World, **more: Any) -> ArchivePlan:
    with lab.open() as session:
        return plan_archive(session, lab.place, lab.settings.tables, now=NOW, **more)


def days_of(plan: ArchivePlan) -> list[tuple[date, int | None]]:
    return [(day.day, day.rows) for day in plan.days]


# ---------------------------------------------------------------- plan


def test_a_plan_has_the_days_that_are_older_than_the_table_keeps_the_oldest_first(lab: World) -> None:
    edge = TODAY - 30 * D
    for day in (edge, edge - D, edge - 2 * D, DAY):
        lab.load(10 + day.day, day)
    plan = planned(lab)
    assert days_of(plan) == [(DAY, 11), (edge - 2 * D, 10 + (edge - 2 * D).day), (edge - D, 10 + (edge - D).day)]
    assert plan.approval is None
    assert "11 rows, older than what the table keeps" in plan.describe()
    with pytest.raises(NotExpired, match="keeps 30 days"):
        lab.archive(edge)


def test_a_thousand_days_are_planned_in_one_statement_for_each_table(lab: World) -> None:
    number = f"public.numbers_{lab.table[-8:]}"
    lab.run(
        f"create table {number} (n int)",
        f"insert into {number} select row_number() over () from pg_class a cross join pg_class b limit 1100",
        f"insert into {lab.table} (id, \"timestamp\") select n, '2026-09-30'::timestamp - (n || ' days')::interval "
        f"from {number}",
    )
    with Counted(lab.info) as session:
        plan = plan_archive(session, lab.place, lab.settings.tables, now=NOW)
        asked = [sql for sql in session.asked if lab.table.partition(".")[2] in sql and "pg_class" not in sql]
    assert len(asked) == 1
    assert (len(plan.days), plan.later) == (MOST_DAYS, 1100 - MOST_DAYS)
    assert plan.days[0].day == date(2026, 9, 30) - 1100 * D
    assert plan.approval is not None
    assert f"1024 days of {lab.table} would be deleted" in plan.approval


def test_a_range_of_days_is_taken_as_asked_days_without_rows_too(lab: World) -> None:
    for day in (DAY - D, DAY, DAY + 3 * D, DAY + 4 * D):
        lab.load(5, day)
    assert days_of(planned(lab, first=DAY, last=DAY + 3 * D)) == [
        (DAY, 5), (DAY + D, 0), (DAY + 2 * D, 0), (DAY + 3 * D, 5),
    ]  # fmt: skip
    assert days_of(planned(lab, first=TODAY - D, last=TODAY)) == [], "the table keeps these"
    assert [day for day, _ in days_of(planned(lab, last=DAY))] == [DAY - D, DAY]


def test_days_under_a_legal_hold_are_neither_archived_nor_deleted(lab_redshift: LabRedshift, lab_s3: LabS3) -> None:
    lab = world(lab_redshift, lab_s3)
    hold = LegalHold(table=lab.table, first=DAY, last=DAY + D, reason="case 17")
    lab.settings = lab.settings.model_copy(update={"legal_holds": (hold,)})
    lab.create()
    for day in (DAY - D, DAY, DAY + D, DAY + 2 * D):
        lab.load(3, day)
    plan = planned(lab)
    assert [day for day, _ in days_of(plan)] == [DAY - D, DAY + 2 * D]
    assert plan.left == {f"{lab.table} {day}": "legal hold, case 17" for day in (DAY, DAY + D)}
    done = lab.archive(DAY)  # planned before there was a hold
    assert (done.kept, done.archived) == ("legal hold, case 17", 0)
    assert lab.published() == lab.staged() == []
    lab.check()


def test_what_a_run_did_not_end_is_planned_again_though_the_table_has_no_rows_of_it(lab: World) -> None:
    lab.load(5)
    with pytest.raises(RuntimeError, match="no ledger"), lab.open() as session:
        lab.archive(session=session, on_part=no_ledger)
    assert lab.in_table() == []
    plan = planned(lab)
    assert [(day.day, day.why) for day in plan.days] == [(DAY, "an earlier run did not end")]
    lab.archive()
    assert planned(lab).days == []


def no_ledger(part: object) -> None:
    raise RuntimeError("no ledger")


def test_a_plan_changes_nothing_and_needs_no_table_of_marks(lab: World) -> None:
    lab.load(5)
    planned(lab)
    assert list(lab.place.store.list("")) == []
    name = lab.settings.marks.partition(".")[2]
    assert lab.sql(f"select count(*) from pg_class where relname = '{name}'") == [[0]]


def test_a_table_that_cannot_be_planned_is_named_with_what_is_there(lab_redshift: LabRedshift, lab_s3: LabS3) -> None:
    lab = world(lab_redshift, lab_s3)
    with pytest.raises(ConfigurationError, match=f"archive of {lab.table}: the warehouse has no such table"):
        planned(lab)


# ---------------------------------------------------------------- the bucket


def test_below_the_dataset_lie_rows_only_for_readers_that_know_nothing_of_us(lab: World) -> None:
    for day in (DAY, DAY + D):
        lab.load(20, day)
        lab.archive(day)
    assert all(key.endswith(".parquet") for key in lab.published())
    table = lab.dataset().to_table()
    assert table.num_rows == 40
    assert set(table["dt"].to_pylist()) == {str(DAY), str(DAY + D)}
    assert datasets(lab.place.store) == [lab.table]
    half = lab.dataset().to_table(filter=pa.compute.field("dt") == str(DAY))
    assert half.num_rows == 20


def test_while_a_day_is_unloaded_the_dataset_shows_nothing_of_it(lab: World) -> None:
    lab.load(20)
    seen: list[list[str]] = []
    with Hooked(lab.info, "unload", lambda: seen.append(lab.published()), after=True) as session:
        lab.archive(session=session)
    assert seen == [[]]


def test_verify_finds_what_was_changed_in_the_bucket(lab: World) -> None:
    lab.load(50)
    (part,) = lab.archive().parts
    place = lab.place
    assert verify_part(place, part) == []
    key = lab.published()[0]
    data = place.store.get(key)
    place.store.put(key, data[:-1])
    assert "bytes, was written with" in verify_part(place, part)[0]
    place.store.put(key, data[:500] + bytes([data[500] ^ 1]) + data[501:])
    assert "SHA-256" in verify_part(place, part)[0] or "cannot be read" in verify_part(place, part)[0]
    place.store.delete([key])
    assert verify_part(place, part) == [f"{key.rpartition('/')[2]} is not there"]


# ---------------------------------------------------------------- days with tables of their own


@pytest.fixture
def daily(lab_redshift: LabRedshift, lab_s3: LabS3) -> World:
    made = world(lab_redshift, lab_s3)
    name = f"{made.table}_{{day}}"
    table = ArchiveTable(table=name, column="timestamp", keep=30 * D, days="tables")
    made.settings = made.settings.model_copy(update={"tables": (table,)})
    return made


def own(lab: World, day: date) -> str:
    return lab.configured.source(day)


def test_a_day_with_a_table_of_its_own_is_dropped(daily: World) -> None:
    for day in (DAY, DAY + D, TODAY):
        daily.create(own(daily, day))
        daily.load(7, day, own(daily, day))
    plan = planned(daily)
    assert days_of(plan) == [(DAY, None), (DAY + D, None)]
    for day in (DAY, DAY + D):
        done = daily.archive(day)
        assert (done.archived, done.deleted) == (7, 7)
        assert daily.archive(day).archived == 0
    left = daily.sql(
        f"select relname from pg_class where relname like '{daily.table.partition('.')[2]}%' and relkind = 'r'"
    )
    assert left == [[own(daily, TODAY).partition(".")[2]]]
    assert daily.in_archive() == daily.keys[:14]
    assert [part.table for part in daily.archived()] == [own(daily, day) for day in (DAY, DAY + D)]


def test_a_day_table_that_comes_again_is_one_more_part(daily: World) -> None:
    for _ in range(2):
        daily.create(own(daily, DAY))
        daily.load(4, DAY, own(daily, DAY))
        daily.archive()
    assert [part.part for part in daily.archived()] == [1, 2]
    assert daily.in_archive() == daily.keys


def test_rows_that_arrive_in_a_day_table_before_it_is_dropped_are_archived(daily: World) -> None:
    daily.create(own(daily, DAY))
    daily.load(4, DAY, own(daily, DAY))
    with Hooked(daily.info, "lock", lambda: daily.load(2, DAY, own(daily, DAY))) as session:
        daily.archive(session=session)
    assert daily.in_archive() == daily.keys


def test_a_day_table_takes_no_row_between_its_comparison_and_its_drop(daily: World) -> None:
    daily.create(own(daily, DAY))
    daily.load(4, DAY, own(daily, DAY))
    kept = list(daily.keys)
    refused: list[str] = []

    def load() -> None:
        try:
            daily.load(2, DAY, own(daily, DAY))
        except StatementRefused as error:
            refused.append(str(error))

    late = threading.Thread(target=load)

    def begin() -> None:
        late.start()
        late.join(0.5)
        assert late.is_alive(), "it waits for the lock"

    with Hooked(daily.info, "drop", begin) as session:
        daily.archive(session=session)
    late.join(10)
    assert "does not exist" in refused[0], "whoever writes is told, and nothing of it is lost"
    assert daily.in_archive() == kept


def test_a_day_table_that_somebody_else_drops_after_its_unload_is_in_the_archive(daily: World) -> None:
    daily.create(own(daily, DAY))
    daily.load(4, DAY, own(daily, DAY))
    with Hooked(daily.info, "lock", lambda: daily.run(f"drop table {own(daily, DAY)}")) as session:
        done = daily.archive(session=session)
    assert (done.archived, done.deleted) == (4, 0)
    assert daily.in_archive() == daily.keys
    assert [part.rows for part in daily.archived()] == [4]
    assert daily.archive().archived == 0, "a later run finds the document"
    assert daily.staged() == []


def test_a_day_table_that_is_made_anew_while_it_is_compared_is_unloaded_again(daily: World) -> None:
    daily.create(own(daily, DAY))
    daily.load(4, DAY, own(daily, DAY))

    def swap() -> None:  # as a deep copy does
        daily.run(
            f"create table {own(daily, DAY)}_new (like {own(daily, DAY)})",
            f"insert into {own(daily, DAY)}_new select * from {own(daily, DAY)}",
            f"drop table {own(daily, DAY)}",
        )

    def back() -> None:
        daily.run(f"alter table {own(daily, DAY)}_new rename to {own(daily, DAY).partition('.')[2]}")

    with Hooked(daily.info, "rollback", back, after=True) as session:
        second = session.run

        def run(sql: str, *values: Any) -> int:
            if sql.lstrip().lower().startswith("lock") and "marks" in sql and not swapped:
                swapped.append(True)
                swap()
            return second(sql, *values)

        swapped: list[bool] = []
        session.run = run  # type: ignore[method-assign]
        done = daily.archive(session=session)
    assert (done.archived, done.deleted) == (4, 4)
    assert daily.in_archive() == daily.keys
    assert sorted(outcome for _, outcome in daily.marks()) == ["deleted", "discarded"]
    assert [part.rows for part in daily.archived()] == [4]


def test_a_day_table_that_a_view_reads_is_not_dropped_and_not_archived_twice(daily: World) -> None:
    daily.create(own(daily, DAY))
    daily.load(4, DAY, own(daily, DAY))
    daily.run(f"create view {daily.table}_all as select * from {own(daily, DAY)}")
    with pytest.raises(StatementRefused, match="depend"):
        daily.archive()
    assert daily.published() == []
    assert daily.in_table(own(daily, DAY)) == daily.keys


# ---------------------------------------------------------------- restore


def restore(lab: World, day: date = DAY) -> dict[str, int]:
    with lab.open() as session:
        return restore_day(session, lab.place, lab.configured.dataset, day, holder="restore")


def attach(lab: World, day: date = DAY, **more: Any) -> int:
    with lab.open() as session:
        more.setdefault("now", NOW)
        return attach_day(session, lab.place, lab.configured.dataset, day, holder="restore", **more)


def test_a_day_comes_back_into_a_side_table_as_it_was(lab: World) -> None:
    lab.load(30)
    before = lab.sql(f"select * from {lab.table} order by id")
    lab.archive()
    lab.load(5)
    lab.archive()
    plan = plan_restore(lab.place, lab.table, DAY, DAY + D)
    assert (plan.days, plan.rows, plan.missing) == ([DAY], 35, [DAY + D])
    side = f"{lab.table}_restored_20260901"
    for _ in range(2):
        assert restore(lab) == {side: 35}
    assert lab.sql(f"select * from {side} where id <= 30 order by id") == before
    assert lab.in_table() == []


def test_attached_rows_stay_as_long_as_was_said_and_go_again_without_being_written_again(lab: World) -> None:
    lab.load(30)
    lab.archive()
    restore(lab)
    told: list[int] = []
    assert attach(lab, keep=7 * D, on_part=lambda part: told.append(part.rows)) == 30
    assert (lab.in_table(), told) == (lab.keys, [30])
    assert attach(lab) == 0, "a retry finds that it is done"
    assert lab.in_table() == lab.keys
    with pytest.raises(StatementRefused):
        lab.in_table(f"{lab.table}_restored_20260901")
    plan = planned(lab)
    assert plan.days == []
    assert "brought back, until 2026-12-02" in plan.left[f"{lab.table} {DAY}"]
    assert "brought back" in (lab.archive().kept or "")

    files = lab.published()
    done = lab.archive(now=LATER)
    assert (done.archived, done.deleted) == (0, 30)
    assert (lab.in_table(), lab.published()) == ([], files)
    (part,) = lab.archived()
    assert part.attached_at is None
    lab.check()


def test_a_day_table_takes_its_name_again(daily: World) -> None:
    daily.create(own(daily, DAY))
    daily.load(9, DAY, own(daily, DAY))
    daily.archive()
    restore(daily)
    assert attach(daily) == 9
    assert daily.in_table(own(daily, DAY)) == daily.keys
    done = daily.archive(now=LATER)
    assert (done.archived, done.deleted) == (0, 9)
    assert daily.in_archive() == daily.keys


def test_parts_with_other_columns_come_back_each_with_its_own(lab: World) -> None:
    lab.load(3)
    lab.archive()
    lab.run(f"alter table {lab.table} add column late int default 4")
    lab.run(f"insert into {lab.table} (id, \"timestamp\") values (77, '{DAY} 10:00:00')")
    lab.archive()
    side = f"{lab.table}_restored_20260901"
    assert restore(lab) == {side: 3, f"{side}_2": 1}
    assert attach(lab) == 4
    assert sorted(lab.sql(f"select id, late from {lab.table}")) == [[1, 4], [2, 4], [3, 4], [77, 4]]


@pytest.mark.parametrize("how", ["identity(1,1)", "generated by default as identity(1,1)"])
def test_rows_of_a_table_that_numbers_them_itself_are_refused_before_anything_is_loaded(lab: World, how: str) -> None:
    lab.run(f"drop table {lab.table}", f'create table {lab.table} (id bigint {how}, "timestamp" timestamp)')
    lab.run(f"insert into {lab.table} (\"timestamp\") values ('{DAY} 10:00:00'), ('{DAY} 11:00:00')")
    lab.archive()
    plan = plan_restore(lab.place, lab.table, DAY, DAY)
    with lab.open() as session:
        if how.startswith("identity"):
            with pytest.raises(CannotAttach, match=f"column id of {lab.table} is an IDENTITY.* side tables only"):
                require_attachable(session, plan)
            assert restore(lab) == {f"{lab.table}_restored_20260901": 2}
        else:
            require_attachable(session, plan)
            restore(lab)
            assert attach(lab) == 2
            assert len(lab.in_table()) == 2


def test_whether_rows_can_go_back_is_known_before_anything_is_loaded(lab: World) -> None:
    lab.load(3)
    lab.archive()
    plan = plan_restore(lab.place, lab.table, DAY, DAY)
    lab.run(f"alter table {lab.table} drop column bid")
    with lab.open() as session:
        with pytest.raises(CannotAttach, match="has no column bid any more; restore the days to their side tables"):
            require_attachable(session, plan)
        lab.run(f"drop table {lab.table}")
        with pytest.raises(CannotAttach, match=f"table {lab.table} is not there"):
            require_attachable(session, plan)


def test_rows_that_are_still_in_the_table_are_not_attached(lab: World) -> None:
    lab.load(3)
    with Hooked(lab.info, "delete", no_more) as session, pytest.raises(KeyboardInterrupt):
        lab.archive(session=session)
    restore(lab)
    with pytest.raises(CannotAttach, match="would be there twice"):
        attach(lab)
    lab.archive()
    lab.run(f"drop table {lab.table}_restored_20260901")
    with pytest.raises(CannotAttach, match="restore the day again"):
        attach(lab)
    lab.check()


def no_more() -> None:
    raise KeyboardInterrupt


def test_a_column_that_the_table_has_no_more_stops_the_attachment(lab: World) -> None:
    lab.load(3)
    lab.archive()
    restore(lab)
    lab.run(f"alter table {lab.table} drop column price")
    with pytest.raises(CannotAttach, match="has no column price any more"):
        attach(lab)
    assert lab.in_table() == []


def test_a_damaged_file_fails_the_restore_and_leaves_no_side_table(lab: World) -> None:
    lab.load(3)
    (part,) = lab.archive().parts
    lab.archive(DAY + D)
    other = world_of_other_rows(lab)
    lab.place.store.put(lab.published()[0], other)
    with pytest.raises((RestoreDiffers, StatementRefused)):
        restore(lab)
    with pytest.raises(StatementRefused):
        lab.in_table(f"{lab.table}_restored_20260901")
    assert verify_part(lab.place, part)


def world_of_other_rows(lab: World) -> bytes:
    """A file with the same columns and other values."""
    from io import BytesIO

    import pyarrow.parquet as pq

    table = pq.read_table(BytesIO(lab.place.store.get(lab.published()[0])))
    wrong = table.set_column(0, "id", pa.array([value + 100 for value in table["id"].to_pylist()]))
    written = BytesIO()
    pq.write_table(wrong, written)
    return written.getvalue()


def test_frozen_files_are_named_and_thawed_when_that_is_asked_for(lab: World) -> None:
    lab.load(3)
    lab.archive()
    store = lab.place.store
    for key in lab.published():
        store.client.copy_object(**store.where(key), CopySource=store.where(key), StorageClass="DEEP_ARCHIVE")
    with pytest.raises(Frozen, match="cannot be read before they are thawed"):
        plan_restore(lab.place, lab.table, DAY, DAY)
    with pytest.raises(Frozen, match="was asked to thaw"):
        plan_restore(lab.place, lab.table, DAY, DAY, thaw=True)
    assert plan_restore(lab.place, lab.table, DAY, DAY).rows == 3, "moto thaws at once"


def test_what_was_never_archived_is_said(lab: World) -> None:
    with pytest.raises(NotArchived, match="nothing is archived of these days"):
        plan_restore(lab.place, lab.table, DAY, DAY)
    with pytest.raises(ConfigurationError, match="is before the first"):
        plan_restore(lab.place, lab.table, DAY, DAY - D)


# ---------------------------------------------------------------- query


def asked(lab: World, **query: Any) -> list[dict[str, Any]]:
    return list(run_query(lab.place, lab.archived(), Query(**query)).to_pylist())


def test_queries_answer_what_the_table_would_have(lab: World) -> None:
    for day in (DAY, DAY + D):
        lab.load(100, day)
    (expected,) = lab.sql(f"select count(*), sum(price), min(score), max(id) from {lab.table} where won and id > 20")
    by_day = lab.sql(
        f'select "timestamp"::date, count(*) from {lab.table} where "we""ird" is null group by 1 order by 1'
    )
    for day in (DAY, DAY + D):
        lab.archive(day)
    aggregates = tuple(Aggregate.parse(text) for text in ("count", "sum(price)", "min(score)", "max(id)"))
    where = (Condition.parse("won = true"), Condition.parse("id > 20"))
    (found,) = asked(lab, aggregates=aggregates, where=where)
    assert list(found.values()) == [expected[0], expected[1], pytest.approx(expected[2]), expected[3]]
    grouped = asked(
        lab, aggregates=(Aggregate.parse("count"),), group_by=("dt",), where=(Condition.parse('we"ird is null'),)
    )
    assert [[row["dt"], row["count"]] for row in grouped] == by_day
    rows = asked(lab, columns=("id", "dt"), where=(Condition.parse(f"timestamp < {DAY} 00:00:03"),), limit=10)
    assert rows == [{"id": 1, "dt": DAY}, {"id": 2, "dt": DAY}]
    assert len(asked(lab, limit=150)) == 150
    assert asked(lab, aggregates=(Aggregate.parse("count"),), where=(Condition.parse("id = -1"),)) == [{"count": 0}]
    assert asked(lab, where=(Condition.parse("id = -1"),)) == []


def test_a_column_that_a_part_did_not_have_is_null_there(lab: World) -> None:
    lab.load(2)
    lab.archive()
    lab.run(f"alter table {lab.table} add column late int default 4")
    lab.run(f"insert into {lab.table} (id, \"timestamp\") values (77, '{DAY} 10:00:00')")
    lab.archive()
    found = asked(lab, columns=("id", "late"))
    assert sorted((row["id"], row["late"]) for row in found if row["late"]) == [(77, 4)]
    assert len(found) == 3


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"columns": ("nope",)}, "no archived part has a column nope"),
        ({"where": (Condition("id", "=", "x"),)}, "id is int64: 'x' is none"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(lab: World, query: dict[str, Any], told: str) -> None:
    lab.load(2)
    lab.archive()
    with pytest.raises(ConfigurationError, match=told):
        asked(lab, **query)


@pytest.mark.parametrize("text", ["id", "= 3", "id ~ 3"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no condition"):
        Condition.parse(text)


@pytest.mark.parametrize("text", ["avg(id)", "sum", "sum(*)", "sum()"])
def test_what_is_no_aggregate_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no aggregate"):
        Aggregate.parse(text)


# ---------------------------------------------------------------- upkeep


def test_space_of_deleted_days_is_given_back_and_statistics_are_renewed(lab: World) -> None:
    lab.load(50)
    lab.load(50, TODAY)
    lab.archive()
    with lab.open() as session:
        done = reclaim(session, lab.table)
    assert done.before is not None
    assert done.after is not None
    assert (done.before[0], done.after, done.problem) == (50, (0, 0.0), None)


def test_a_vacuum_that_gives_nothing_back_is_told(lab: World) -> None:
    lab.load(50)
    lab.load(50, TODAY)
    with lab.open() as reader, reader.transaction():
        reader.rows(f"select count(*) from {lab.table}")
        lab.archive()
        with lab.open() as session:
            done = reclaim(session, lab.table, patience=0)
    assert done.problem is not None
    assert "gave nothing back of 50 deleted rows" in done.problem


def test_an_older_transaction_is_waited_for(lab: World) -> None:
    lab.load(50)
    lab.load(50, TODAY)
    with lab.open() as reader:
        reader.run("begin")
        reader.rows(f"select count(*) from {lab.table}")
        lab.archive()
        ended = threading.Timer(0.3, reader.run, ["commit"])
        ended.start()
        with lab.open() as session:
            done = reclaim(session, lab.table, pause=0.1)
        ended.join()
    assert (done.problem, done.after) == (None, (0, 0.0))


def test_another_vacuum_is_waited_for(lab: World, lab_redshift: LabRedshift) -> None:
    lab.load(5)
    busy = {"match": "^vacuum", "error": "55000", "message": "VACUUM is running"}
    lab_redshift.standin.faults({**busy, "times": 2})
    with lab.open() as session:
        reclaim(session, lab.table, pause=0.01)
    lab_redshift.standin.faults({**busy, "times": 99})
    with pytest.raises(VacuumBusy), lab.open() as session:
        reclaim(session, lab.table, patience=0.05, pause=0.01)


# ---------------------------------------------------------------- memory


def test_reading_files_back_takes_no_more_memory_for_more_rows(tmp_path: Any) -> None:
    script = """
import resource, sys
import pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
from dbops.backups.store import LocalStore
from dbops.redshift.archive_checks import Column
from dbops.redshift.archived_files import check_files
from dbops.redshift.text_hash import sum_of_md5
groups, folder = int(sys.argv[1]), Path(sys.argv[2])
schema = pa.schema([("id", pa.int64()), ("t", pa.string())])
with pq.ParquetWriter(folder / "f.parquet", schema, compression="none") as writer:
    for group in range(groups):
        ids = pa.array(range(group * 50_000, (group + 1) * 50_000))
        writer.write_table(pa.table([ids, pa.compute.cast(ids, pa.string())], schema=schema), row_group_size=50_000)
columns = [Column(name="id", type="bigint"), Column(name="t", type="character varying(64)")]
files = [("f.parquet", (folder / "f.parquet").stat().st_size)] * 2
check_files(LocalStore(folder), files[:1] if groups > 1 else files, columns)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
check_files(LocalStore(folder), files, columns)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    answer = subprocess.run(
        [sys.executable, "-c", script, "24", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(answer.stdout) < 64


# ---------------------------------------------------------------- least privilege


def least_privileged(lab: World, schema: str) -> ConnectionInfo:
    """A login with what grants.sql gives, in a schema that somebody else owns."""
    name, owner, password = (f"u_{secrets.token_hex(4)}", f"o_{secrets.token_hex(4)}", f"Pw1{secrets.token_hex(8)}")
    text = (DIRECTORY / "redshift" / "grants.sql").read_text()
    text = re.sub(r"--.*", "", text)
    for variable, value in {"dbops": name, "schema": schema, "owner": owner}.items():
        text = text.replace(f':"{variable}"', f'"{value}"')
    lab.run(f"create user {name} password '{password}'", f"create user {owner} password '{password}'")
    lab.run(*(one for one in map(str.strip, text.split(";")) if one))
    return replace(lab.info, login=name, password=password)


@pytest.mark.parametrize("days", ["rows", "tables"])
def test_the_rights_of_grants_sql_are_enough(lab_redshift: LabRedshift, lab_s3: LabS3, days: str) -> None:
    schema = f"s_{secrets.token_hex(4)}"
    lab = world(lab_redshift, lab_s3, days=days, table=f"{schema}.bids" + ("_{day}" if days == "tables" else ""))
    table = lab.configured.source(DAY)
    lab.run(f"create schema {schema}")
    lab.create(table)
    lab.load(6, DAY, table)
    lab.settings = lab.settings.model_copy(update={"marks": f"{schema}.marks"})
    with open_session(least_privileged(lab, schema)) as session:
        done = lab.archive(session=session)
        assert (done.archived, done.deleted) == (6, 6)
        assert lab.in_archive() == lab.keys
        assert restore_day(session, lab.place, lab.configured.dataset, DAY, holder="restore")
        assert attach_day(session, lab.place, lab.configured.dataset, DAY, holder="restore", now=NOW) == 6
        assert lab.in_table(table) == lab.keys
        assert lab.archive(session=session, now=LATER).deleted == 6


def test_a_login_that_may_make_no_table_is_told_what_somebody_else_must_do(lab: World) -> None:
    lab.load(6)
    schema = f"s_{secrets.token_hex(4)}"
    info = least_privileged(lab, "public")
    lab.run(f"create schema {schema}", f"grant usage on schema {schema} to {info.login}")
    lab.settings = lab.settings.model_copy(update={"marks": f"{schema}.marks"})
    with open_session(info) as session:
        with pytest.raises(ConfigurationError, match="grant SELECT, INSERT and DELETE on it to this login") as told:
            lab.archive(session=session)
        lab.run(str(told.value).partition("to this login: ")[2])
        lab.run(f"grant select, insert, delete on {schema}.marks to {info.login}")
        assert lab.archive(session=session).deleted == 6
    lab.check()
