"""What archival survives: after every fault and another run, each row is once in the table or once in the archive."""

from __future__ import annotations

import json
import multiprocessing
import re
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from archive_child import run_in_child
from archive_world import DAY, Hooked, World, world
from dbops.backups.lease import LeaseHeld
from dbops.backups.store import StoreRefused
from dbops.errors import ConfigurationError, DbopsError, RetryableError
from dbops.redshift import archive_marks
from dbops.redshift.archive import PartChanged, RowsMoving, UnloadFailed
from dbops.redshift.archive_parts import attempt_of, part_key
from dbops.redshift.archived_files import UnloadDamaged
from dbops.redshift.session import RedshiftUnreachable, SerializationConflict
from dbops.sql import quoted
from dbops_lab.testing import LabRedshift, LabS3

ROWS = 300


class Stopped(BaseException):
    """The run ends here."""


def disconnect() -> None:
    raise Stopped


forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["archive_child"])


@pytest.fixture
def lab(lab_redshift: LabRedshift, lab_s3: LabS3) -> World:
    made = world(lab_redshift, lab_s3)
    made.create()
    made.load(ROWS)
    return made


def hooked(lab: World, match: str, act: Callable[[], Any], *, after: bool = False, skip: int = 0) -> Hooked:
    return Hooked(lab.info, match, act, after=after, skip=skip)


# ---------------------------------------------------------------- killed


@pytest.mark.parametrize(
    ("match", "after", "skip"),
    [
        pytest.param("unload", False, 0, id="before UNLOAD"),
        pytest.param("unload", True, 0, id="after UNLOAD"),
        pytest.param("lock", False, 0, id="before the comparison"),
        pytest.param("delete", False, 0, id="before DELETE"),
        pytest.param("delete", True, 0, id="after DELETE"),
        pytest.param("commit", True, 1, id="after COMMIT"),
        pytest.param("ledger", False, 0, id="before the ledger row"),
    ],
)
def test_killed_anywhere_the_next_run_has_each_row_once(lab: World, match: str, after: bool, skip: int) -> None:
    ours, theirs = forkserver.Pipe()
    process = forkserver.Process(target=run_in_child, args=(theirs, lab, match, after, skip))
    process.start()
    theirs.close()
    assert ours.recv() == "started"
    process.join(60)
    assert process.exitcode == -9
    left = lab.in_archive() if lab.published() else []
    assert set(lab.in_table()) | set(left) == set(lab.keys), "no row is lost, whenever"
    remembered: list[int] = []
    lab.archive(on_part=lambda part: remembered.append(part.rows))
    assert remembered == [ROWS]
    assert lab.in_table() == []
    lab.check()
    assert lab.staged() == []


@pytest.mark.parametrize(
    ("match", "after", "skip"),
    [
        pytest.param("unload", True, 0, id="after UNLOAD"),
        pytest.param("lock", True, 0, id="after the first lock"),
        pytest.param("drop", False, 0, id="before DROP"),
        pytest.param("drop", True, 0, id="after DROP"),
        pytest.param("commit", True, 1, id="after COMMIT"),
    ],
)
def test_killed_with_a_table_for_each_day_the_next_run_has_each_row_once(
    lab_redshift: LabRedshift, lab_s3: LabS3, match: str, after: bool, skip: int
) -> None:
    name = f"public.bids_{secrets.token_hex(4)}"
    lab = world(lab_redshift, lab_s3, table=f"{name}_{{day}}", days="tables")
    table = lab.configured.source(DAY)
    lab.create(table)
    lab.load(ROWS, DAY, table)
    ours, theirs = forkserver.Pipe()
    process = forkserver.Process(target=run_in_child, args=(theirs, lab, match, after, skip))
    process.start()
    theirs.close()
    assert ours.recv() == "started"
    process.join(60)
    assert process.exitcode == -9
    with ThreadPoolExecutor(2) as pool:  # two at once: one of them holds the day
        for run in [pool.submit(lab.archive, holder=f"run-{number}") for number in (1, 2)]:
            assert run.exception() is None or isinstance(run.exception(), LeaseHeld | RetryableError)
    lab.archive()
    assert lab.sql("select count(*) from pg_class where relname = %s", table.partition(".")[2]) == [[0]]
    assert lab.in_archive() == lab.keys
    assert [part.rows for part in lab.archived()] == [ROWS]
    assert lab.staged() == []


def test_killed_after_delete_with_rows_arriving_before_the_next_run_they_are_a_part_of_their_own(lab: World) -> None:
    with hooked(lab, "commit", disconnect, after=True, skip=1) as session, pytest.raises(Stopped):
        lab.archive(session=session)
    late = lab.load(20)
    lab.archive()
    assert [part.rows for part in lab.archived()] == [ROWS, len(late)]
    lab.check()


def test_killed_before_delete_with_rows_arriving_before_the_next_run_all_are_one_part(lab: World) -> None:
    with hooked(lab, "delete", disconnect) as session, pytest.raises(Stopped):
        lab.archive(session=session)
    assert len(lab.archived()) == 1, "committed, and not deleted"
    lab.load(20)
    lab.archive()
    assert [part.rows for part in lab.archived()] == [ROWS + 20]
    assert sorted(outcome for _, outcome in lab.marks()) == ["deleted", "discarded"]
    lab.check()


def test_killed_before_delete_and_nothing_changed_the_same_files_are_taken(lab: World) -> None:
    with hooked(lab, "delete", disconnect) as session, pytest.raises(Stopped):
        lab.archive(session=session)
    before = lab.published()
    done = lab.archive()
    assert (done.archived, done.deleted) == (0, ROWS)
    assert lab.published() == before
    lab.check()


# ---------------------------------------------------------------- UNLOAD and what it leaves


def test_unload_that_fails_on_one_slice_is_tried_again_and_its_files_are_removed(
    lab: World, lab_redshift: LabRedshift
) -> None:
    lab_redshift.standin.faults({"match": "^unload", "slice": 1})
    with pytest.raises(UnloadFailed, match="nothing was deleted"):
        lab.archive()
    assert [key.rpartition("/")[2] for key in lab.staged() if key.endswith(".parquet")], "the other slice's file"
    assert lab.published() == []
    lab.check()
    lab.archive()
    lab.check()
    assert lab.in_table() == lab.staged() == []


def test_a_connection_lost_in_mid_unload_or_after_commit_costs_nothing(lab: World, lab_redshift: LabRedshift) -> None:
    lab_redshift.standin.faults({"match": "^unload", "drop": "during"})
    with pytest.raises(RedshiftUnreachable):
        lab.archive()
    lab.check()
    lab_redshift.standin.faults({"match": "^commit", "skip": 2, "drop": "after"})
    with pytest.raises(RedshiftUnreachable):
        lab.archive()
    assert lab.in_table() == [], "it was committed, and nobody heard"
    done = lab.archive()
    assert (done.archived, done.deleted, [part.rows for part in done.parts]) == (0, 0, [ROWS])
    assert done.gone == ROWS, "a retry tells of what nobody heard, or its space is never given back"
    assert lab.archive().gone == 0
    lab.check()


def test_when_the_ledger_did_not_take_a_part_the_retry_tells_of_its_rows(lab: World) -> None:
    def broken(part: object) -> None:
        raise RuntimeError("no ledger")

    with pytest.raises(RuntimeError, match="no ledger"):
        lab.archive(on_part=broken)
    done = lab.archive()
    assert (done.archived, done.deleted, done.gone) == (0, 0, ROWS)


def test_a_session_that_ends_while_files_are_read_is_opened_again(lab: World) -> None:
    session = lab.open()
    with hooked(lab, "commit", lambda: first._connection.close(), after=True) as first:
        done = lab.archive(session=first, reconnect=lambda: session)
    assert (done.archived, done.deleted, done.gone) == (ROWS, ROWS, ROWS)
    with pytest.raises(RedshiftUnreachable):
        session.rows("select 1")  # it was closed at the end
    lab.check()


def edited(lab: World, change: Callable[[dict[str, Any]], Any]) -> Callable[[], None]:
    """Something happens to the manifest that UNLOAD left."""

    def edit() -> None:
        (key,) = [key for key in lab.staged() if key.endswith("manifest")]
        manifest = json.loads(lab.place.store.get(key))
        change(manifest)
        lab.place.store.put(key, json.dumps(manifest).encode())

    return edit


def of_staged(lab: World, do: Callable[[str], Any]) -> Callable[[], None]:
    """Something happens to a file that UNLOAD wrote."""
    return lambda: do(next(key for key in lab.staged() if key.endswith(".parquet")))


def rewritten(lab: World, change: Callable[[bytes], bytes]) -> Callable[[], None]:
    store = lab.place.store
    return of_staged(lab, lambda key: store.put(key, change(store.get(key))))


def flipped(data: bytes) -> bytes:
    return data[:600] + bytes([data[600] ^ 1]) + data[601:]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("manifest missing", "left no manifest"),
        ("manifest without a file", "its files have"),
        ("manifest with another count", "its files have"),
        ("manifest with counts exchanged", "the manifest says"),
        ("manifest with another size", "its files have"),
        ("manifest that is none", "is no manifest of UNLOAD"),
        ("object missing", "is not there"),
        ("object truncated", "bytes, the manifest says"),
        ("object too many", "is not in the manifest"),
        ("object of other bytes", "Parquet file|cannot be read|discarded"),
    ],
)
def test_what_unload_left_is_believed_only_when_all_of_it_agrees(
    lab: World, damage: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = lab.place.store

    def exchanged(manifest: dict[str, Any]) -> None:
        first, second = manifest["entries"]
        first["meta"]["record_count"] += 1
        second["meta"]["record_count"] -= 1

    acts: dict[str, Callable[[], Any]] = {
        "manifest missing": lambda: store.delete([key for key in lab.staged() if key.endswith("manifest")]),
        "manifest without a file": edited(lab, lambda manifest: manifest["entries"].pop()),
        "manifest with another count": edited(lab, lambda manifest: manifest["meta"].update(record_count=1)),
        "manifest with counts exchanged": edited(lab, exchanged),
        "manifest with another size": edited(lab, lambda manifest: manifest["meta"].update(content_length=1)),
        "manifest that is none": edited(lab, lambda manifest: manifest.clear()),
        "object missing": of_staged(lab, lambda key: store.delete([key])),
        "object truncated": rewritten(lab, lambda data: data[:-100]),
        "object too many": of_staged(lab, lambda key: store.put(key.replace("_part_", "_more_"), b"x")),
        "object of other bytes": rewritten(lab, flipped),
    }
    with hooked(lab, "unload", acts[damage], after=True) as session:
        try:
            lab.archive(session=session)
        except UnloadDamaged as error:
            found = str(error)
        else:
            found = caplog.text
    assert re.search(told, found)
    lab.check()
    lab.archive()
    lab.check()
    assert lab.in_table() == lab.staged() == []


def test_a_bucket_that_refuses_the_copy_into_the_dataset_loses_nothing(lab: World, lab_s3: LabS3) -> None:
    place = f"{lab.settings.prefix}/{lab.configured.dataset}/dt=.*0001_part"
    lab_s3.faults({"method": "PUT", "key": place, "status": 403, "times": 9})
    with pytest.raises(StoreRefused):
        lab.archive()
    lab_s3.faults()
    assert lab.in_table() == lab.keys
    lab.archive()
    lab.check()


# ---------------------------------------------------------------- rows that arrive or change


def test_rows_that_arrive_between_unload_and_delete_are_archived_with_the_rest(lab: World) -> None:
    with hooked(lab, "lock", lambda: lab.load(5)) as session:
        done = lab.archive(session=session)
    assert (done.archived, done.deleted) == (ROWS + 5, ROWS + 5)
    assert [part.rows for part in lab.archived()] == [ROWS + 5]
    lab.check()


@pytest.mark.parametrize(
    ("column", "change", "value"),
    [
        ("price", "8.250001", Decimal("8.250001")),
        ('we"ird', "'it''s 9 \u00fc'", "it's 9 \u00fc"),  # as long as it was
        ('we"ird', "null", None),
        ('we"ird', "''", ""),
        ("won", "true", True),
        ("score", "2.6666667", 2.6666667),
        ("timestamp", f"'{DAY} 00:00:08.000001'", datetime(2026, 9, 1, 0, 0, 8, 1)),  # noqa: DTZ001
    ],
)
def test_a_value_that_changes_between_unload_and_delete_is_seen(
    lab: World, column: str, change: str, value: object
) -> None:
    statement = f"update {lab.table} set {quoted(column)} = {change} where id = 8"
    with hooked(lab, "lock", lambda: lab.run(statement)) as session:
        lab.archive(session=session)
    assert [outcome for _, outcome in lab.marks()].count("discarded") == 1
    (archived,) = [row for row in lab.dataset().to_table().to_pylist() if row["id"] == 8]
    assert archived[column] == value
    lab.check()


def test_texts_that_two_rows_exchange_are_seen(lab: World) -> None:
    statement = f"update {lab.table} set bid = 'bid-' || (case id when 8 then 9 else 8 end) where id in (8, 9)"
    with hooked(lab, "lock", lambda: lab.run(statement)) as session:
        lab.archive(session=session)
    assert [outcome for _, outcome in lab.marks()].count("discarded") == 1
    lab.check()


def test_a_column_added_between_unload_and_delete_is_archived(lab: World) -> None:
    def add() -> None:
        lab.run(f"alter table {lab.table} add column late int", f"update {lab.table} set late = 7")

    with hooked(lab, "lock", add) as session:
        lab.archive(session=session)
    assert set(lab.dataset().to_table(columns=["late"])["late"].to_pylist()) == {7}
    lab.check()


def test_rows_that_never_stop_arriving_end_the_run_and_none_is_lost(lab: World) -> None:
    with lab.open() as session:
        session.run = restless(lab, session.run)  # type: ignore[method-assign]
        with pytest.raises(RowsMoving, match="find out who writes"):
            lab.archive(session=session)
    lab.check()
    lab.archive()
    lab.check()


def restless(lab: World, run: Callable[..., int]) -> Callable[..., int]:
    def load_first(sql: str, *values: Any) -> int:
        if sql.startswith("lock"):
            lab.load(1)
        return run(sql, *values)

    return load_first


def test_rows_that_arrive_late_are_one_more_part_each_time(lab: World) -> None:
    lab.archive()
    for number in range(2):
        late = lab.load(10 + number)
        done = lab.archive()
        assert (done.archived, len(late)) == (10 + number, 10 + number)
    assert [(part.part, part.rows) for part in lab.archived()] == [(1, ROWS), (2, 10), (3, 11)]
    lab.check()
    assert lab.archive().archived == 0, "nothing is left to do"
    assert len(lab.archived()) == 3


def test_the_same_rows_loaded_again_are_two_rows_as_they_were(lab: World) -> None:
    lab.archive()
    again = list(lab.keys)
    lab.keys.clear()
    lab.load(ROWS)
    lab.keys += again
    lab.archive()
    assert [part.rows for part in lab.archived()] == [ROWS, ROWS]
    lab.check()


def test_a_day_without_rows_is_written_down_as_empty_and_takes_rows_later(lab: World) -> None:
    day = DAY - timedelta(days=1)
    done = lab.archive(day)
    assert [(part.rows, part.files, part.manifest_sha256) for part in done.parts] == [(0, (), None)]
    assert lab.archive(day).parts == done.parts
    lab.load(10, day)
    lab.archive(day)
    lab.archive()
    assert [part.rows for part in lab.archived() if part.day == day] == [0, 10]
    lab.check()


# ---------------------------------------------------------------- the warehouse


def test_delete_that_gets_1023_is_tried_again(lab: World, lab_redshift: LabRedshift) -> None:
    lab_redshift.standin.faults({"match": "^delete", "error": "1023", "times": 2})
    done = lab.archive()
    assert (done.archived, done.deleted) == (ROWS, ROWS)
    assert len(lab.archived()) == 1
    lab.check()


def test_delete_that_always_gets_1023_ends_the_run_and_the_next_one_takes_the_same_files(
    lab: World, lab_redshift: LabRedshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_marks, "CONFLICTS", 2)
    lab_redshift.standin.faults({"match": "^delete", "error": "1023", "times": 2})
    with pytest.raises(SerializationConflict):
        lab.archive()
    assert lab.in_table() == lab.keys
    done = lab.archive()
    assert (done.archived, done.deleted) == (0, ROWS)
    lab.check()


def test_delete_that_is_refused_leaves_the_rows_in_the_table_alone(lab: World, lab_redshift: LabRedshift) -> None:
    order = {"match": "^delete", "error": "42501", "message": "permission denied for relation bids"}
    lab_redshift.standin.faults(order)
    with pytest.raises(DbopsError, match="permission denied"):
        lab.archive()
    assert lab.published() == [], "and not in the dataset too"
    lab.check()
    lab.archive()
    lab.check()


def test_serverless_is_archived_alike(lab: World, lab_redshift: LabRedshift) -> None:
    lab_redshift.standin.serverless()
    try:
        lab.archive()
    finally:
        lab_redshift.standin.serverless(False)
    assert lab.in_table() == []
    lab.check()


def test_names_that_are_words_of_sql_or_hold_marks_are_quoted(lab_redshift: LabRedshift, lab_s3: LabS3) -> None:
    lab = world(lab_redshift, lab_s3, table="public.order of $1; drop")
    lab.run(
        'create table public."order of $1; drop" (id bigint, "timestamp" timestamp, "select" varchar(9), '
        '"it\'s 100%" int, "a""b" varchar(20)) sortkey ("timestamp")'
    )
    lab.run(
        'insert into public."order of $1; drop" values '
        f"(1, '{DAY} 00:00:00', 'x', 1, null), (2, '{DAY} 23:59:59.999999', '', null, 'it''s')"
    )
    lab.keys = [1, 2]
    lab.archive()
    assert lab.sql('select count(*) from public."order of $1; drop"') == [[0]]
    assert lab.dataset().to_table().to_pylist()[1]['a"b'] == "it's"
    assert lab.in_archive() == lab.keys


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (None, "the warehouse has no table"),
        ('id bigint, "time" timestamp', "it has no column timestamp, but id, time"),
        ('id bigint, "timestamp" bigint', "column timestamp is bigint, not a date or timestamp"),
        ('id bigint, "timestamp" varchar(30)', "not a date or timestamp"),
        ('id bigint, "timestamp" timestamp, at time', "which UNLOAD does not write to Parquet"),
    ],
)
def test_a_table_that_cannot_be_archived_is_refused_before_anything_is_written(
    lab_redshift: LabRedshift, lab_s3: LabS3, columns: str | None, told: str
) -> None:
    lab = world(lab_redshift, lab_s3)
    if columns:
        lab.run(f"create table {lab.table} ({columns})")
    with pytest.raises(ConfigurationError, match=told):
        lab.archive()
    assert lab.staged() == lab.published() == []


@pytest.mark.parametrize("kind", ["date", "timestamptz"])
def test_a_day_is_that_of_utc_whatever_the_type_of_its_column(
    lab_redshift: LabRedshift, lab_s3: LabS3, kind: str
) -> None:
    lab = world(lab_redshift, lab_s3)
    lab.run(f'create table {lab.table} (id bigint, "timestamp" {kind}) sortkey ("timestamp")')
    hours = ("12:00:00", "12:00:00", "12:00:00") if kind == "date" else ("23:59:59.9", "00:00:00", "23:59:59.999999")
    days = (DAY - timedelta(days=1), DAY, DAY)
    for key, (day, hour) in enumerate(zip(days, hours, strict=True), 1):
        value = f"'{day}'::date" if kind == "date" else f"'{day} {hour}+00'::timestamptz"
        lab.run(f"insert into {lab.table} values ({key}, {value})")
    lab.keys = [1, 2, 3]
    lab.archive()
    assert lab.in_archive() == [2, 3]
    lab.check()


# ---------------------------------------------------------------- two at once


def test_of_two_runs_at_once_one_waits_for_the_lease(lab: World) -> None:
    def second() -> None:
        with pytest.raises(LeaseHeld, match="held by run-1"):
            lab.archive(holder="run-2")

    with hooked(lab, "lock", second) as session:
        lab.archive(session=session)
    assert lab.archive(holder="run-2").archived == 0
    lab.check()


def test_two_processes_of_one_task_at_once_do_not_double_a_row(lab: World) -> None:
    """As when Airflow takes a worker for dead that is not: both hold the lease, under the same name."""
    together = threading.Barrier(2, timeout=30)

    def work(_: int) -> str:
        with hooked(lab, "lock", together.wait) as session:
            try:
                lab.archive(session=session)
            except RetryableError as error:
                return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    lab.archive()
    assert lab.in_table() == []
    lab.check()


def test_one_that_was_thought_to_be_dead_deletes_nothing_after_its_files_were_removed(lab: World) -> None:
    with hooked(
        lab, "lock", lambda: lab.archive()
    ) as session:  # another one comes, and finds an attempt without an end
        lab.archive(session=session)
    assert sorted(outcome for _, outcome in lab.marks()) == ["deleted", "discarded"]
    assert lab.in_table() == []
    lab.check()


def test_one_that_was_thought_to_be_dead_and_ends_while_the_next_one_looks_is_taken_for_done(lab: World) -> None:
    """It writes its document after the other one has listed the documents, and before that one discards it."""
    with hooked(lab, "unload", disconnect, after=True) as session, pytest.raises(Stopped):
        lab.archive(session=session)
    attempt = attempt_of(lab.staged()[0].rpartition("/")[2])
    place, day = (lab.place, lab.configured.dataset), DAY

    def end() -> None:
        lab.run(f"delete from {lab.table}", f"insert into {lab.settings.marks} values "
                f"('{place[1]}', '{day}', '{attempt}', 'deleted', {ROWS}, sysdate, null)")  # fmt: skip
        lab.place.store.put(part_key(place[1], day, attempt), document)

    other = world_like(lab)
    other.archive()
    (part,) = other.archived()
    document = part.model_copy(update={"attempt": attempt, "dataset": place[1], "deleted_at": None}).to_json()
    with hooked(lab, "lock", end) as session:
        done = lab.archive(session=session)
    assert [part.attempt for part in done.parts] == [attempt]
    assert lab.marks() == [(attempt, "deleted")]


def world_like(lab: World) -> World:
    """Another table with as many rows."""
    made = replace(lab, table=f"{lab.table}_other", keys=[])
    table = lab.configured.model_copy(update={"table": made.table})
    made.settings = lab.settings.model_copy(update={"tables": (table,), "marks": f"{lab.settings.marks}_other"})
    made.create()
    made.load(ROWS)
    return made


def test_one_that_was_thought_to_be_dead_and_deletes_first_keeps_its_files(lab: World) -> None:
    finished = lab.open()

    def first() -> None:
        lab.archive(session=finished)

    with hooked(lab, "delete", disconnect) as session, pytest.raises(Stopped):
        lab.archive(session=session)  # committed, and not deleted
    with hooked(lab, "lock", first) as session:
        lab.archive(session=session)  # finds that part, and is overtaken
    finished.close()
    assert [part.rows for part in lab.archived()] == [ROWS]
    lab.check()


# ---------------------------------------------------------------- what the mark is for


def test_a_warehouse_restored_from_before_the_deletion_deletes_again_and_archives_nothing_twice(lab: World) -> None:
    lab.archive()
    keys = list(lab.keys)
    lab.run(f"delete from {lab.settings.marks}")  # as the snapshot has it
    lab.keys.clear()
    lab.load(ROWS)
    done = lab.archive()
    assert (done.archived, done.deleted) == (0, ROWS)
    lab.keys = keys
    lab.check()


def test_an_archive_that_is_the_only_copy_is_never_replaced_unless_a_person_says_so(lab: World) -> None:
    lab.archive()
    lab.run(f"delete from {lab.settings.marks}")
    kept = list(lab.keys)
    late = lab.load(5)
    with pytest.raises(PartChanged, match="--replace"):
        lab.archive()
    assert lab.in_archive() == kept
    assert lab.in_table() == late
    lab.archive(replace=True)
    assert lab.in_archive() == late, "the table was right"
    assert lab.in_table() == []


def test_rows_that_somebody_else_deleted_stay_in_the_archive(lab: World) -> None:
    with hooked(lab, "delete", disconnect) as session, pytest.raises(Stopped):
        lab.archive(session=session)
    lab.run(f"delete from {lab.table}")
    done = lab.archive()
    assert (done.deleted, [part.rows for part in done.parts]) == (0, [ROWS])
    lab.check()
