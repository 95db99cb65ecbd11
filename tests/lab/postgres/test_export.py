"""Exports by the real pg_dump to a real S3: what they hold, what a drill gives back, what verify and drill find."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cipher_samples import PEM
from dbops.backups.cipher import Keys
from dbops.backups.lease import Lease, LeaseHeld
from dbops.backups.store import open_store
from dbops.errors import FinalError
from dbops.platform import ExportScratch, Retention
from dbops.postgres.export import CUSTOM
from dbops.postgres.export_drill import ExportDrill, ProductionTarget, run_export_drill
from dbops.postgres.export_verify import verify_export
from dbops.postgres.exports import (
    ExportManifest,
    expire_export,
    export_prefix,
    exports,
    find_export,
    lease_key,
    newest_verified,
    plan_export_expiry,
    sweep_exports,
)
from dbops.postgres.programs import find_program, has_zstd
from dbops_lab.testing import LabS3
from export_world import Exported, exported_world, scratch_of
from postgres_world import World

DAY = timedelta(days=1)
EVENTS = {"public.events_01": 1053, "public.events_02": 947}
ALL = {
    "public.campaigns": 2000, "public.line_items": 2000, "Odd one.Big, table": 50, "public.empty": 0,
    "public.audit": 2000, **EVENTS,
}  # fmt: skip


@pytest.fixture
def exported(world: World, lab_s3: LabS3, tmp_path: Path) -> Exported:
    store = open_store(f"s3://{lab_s3.bucket}/{lab_s3.new_prefix()}", lab_s3.connection)
    return exported_world(world, lab_s3, store, tmp_path)


@pytest.fixture
def exported17(world17: World, lab_s3: LabS3, tmp_path: Path) -> Exported:
    store = open_store(f"s3://{lab_s3.bucket}/{lab_s3.new_prefix()}", lab_s3.connection)
    return exported_world(world17, lab_s3, store, tmp_path)


def problems(exported: Exported, made: ExportManifest) -> tuple[str, ...]:
    item = find_export(exported.store, "exchange", made.export, made.id)
    found = verify_export(exported.store, item, exported.settings).problems
    known = find_export(exported.store, "exchange", made.export, made.id).verified
    assert known is not None
    assert tuple(known.problems) == found, "it is kept beside the manifest"
    return found


def drill(exported: Exported, made: ExportManifest, **words: Any) -> ExportDrill:
    rto = words.pop("rto", timedelta(minutes=5))
    settings = words.pop("settings", exported.settings)
    return run_export_drill(
        exported.store, made, settings, scratch_of(exported.world), rto=rto, holder="drill", **words
    )


def drill_databases(exported: Exported) -> list[str]:
    with exported.world.admin() as cursor:
        cursor.execute("select datname from pg_database where datname like 'dbops_drill%'")
        return [name for (name,) in cursor.fetchall()]


@pytest.mark.parametrize(("name", "jobs"), [("all", 1), ("all", 2), ("some", 1), ("some", 2)])
def test_what_is_exported_is_whole_and_a_drill_gives_it_back_and_leaves_nothing(
    exported: Exported, name: str, jobs: int
) -> None:
    exported.change(name, jobs=jobs)
    made = exported.make(name)
    assert {str(table): table.rows for table in made.tables} == (
        ALL if name == "all" else {"public.line_items": 2000, **EVENTS}
    )
    for item in made.objects:
        data = exported.store.get(made.prefix + item.name)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (item.size, item.sha256)
    assert [item.manifest for item in exports(exported.store, "exchange", name)] == [made]
    assert problems(exported, made) == ()
    assert newest_verified(exported.store, "exchange", name).id == made.id
    found = drill(exported, made)
    assert found.problems == ()
    assert found.seconds > 0
    left_out = [note for note in found.notes if "EXTENSION" not in note]
    assert len(left_out) == (0 if name == "all" else 2), "what needs rows that were not exported"
    assert drill_databases(exported) == []
    assert list(Path(str(exported.settings.work_folder)).iterdir()) == []


def test_an_export_is_compressed_with_zstd_where_pg_dump_has_it_or_as_the_platform_file_says(
    exported: Exported, tmp_path: Path
) -> None:
    has = has_zstd(find_program("pg_dump", exported.world.major, exported.settings.programs, "the test"))
    assert has or exported.world.major < 16

    def compression(level: int | None) -> str:
        exported.change(compression=level)
        made, file = exported.make(run=f"run/{level}"), tmp_path / f"{level}.dump"
        file.write_bytes(exported.store.get(made.prefix + CUSTOM))
        assert problems(exported, made) == ()
        restore = [exported.world.server.binaries / "pg_restore", "--list", file]
        listed = subprocess.run(restore, capture_output=True, text=True, check=True).stdout
        return listed.partition("Compression: ")[2].partition("\n")[0]

    assert compression(None) == ("zstd" if has else "-1")
    assert compression(6) == ("gzip" if has else "6")


def test_counts_and_rows_are_of_one_moment_whatever_is_written_meanwhile(exported17: Exported) -> None:
    calls = 0

    def write(size: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            exported17.run(
                "insert into campaigns (name, at) select 'late', now() from generate_series(1, 100)",
                "update line_items set note = 'late'",
                "delete from audit",
            )

    made = exported17.make(on_stored=write)
    assert calls
    assert {str(table): table.rows for table in made.tables} == ALL
    assert drill(exported17, made).problems == ()


def test_a_run_that_is_tried_again_after_its_commit_gets_the_same_export(exported17: Exported) -> None:
    made = exported17.make()
    assert exported17.make() == made
    assert exported17.make(run="run/2").id != made.id
    assert len(exports(exported17.store, "exchange", "all")) == 2


def test_an_encrypted_export_is_read_back_and_drilled_with_its_key_only(exported17: Exported) -> None:
    keys = Keys.of("aes256", PEM)
    for name, jobs in (("all", 1), ("some", 2)):
        exported17.change(name, jobs=jobs)
        made = exported17.make(name, keys=keys)
        first = made.objects[0]
        assert not exported17.store.get(made.prefix + first.name).startswith(b"PGDMP")
        item = find_export(exported17.store, "exchange", name, made.id)
        assert verify_export(exported17.store, item, exported17.settings, keys=keys).problems == ()
        with pytest.raises(FinalError, match="no key is configured"):
            verify_export(exported17.store, item, exported17.settings)
        assert drill(exported17, made, keys=keys).problems == ()


# --- damage -----------------------------------------------------------------------------------------------


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, "SHA-256"),
        (lambda data: data[:-100], "bytes, the manifest says"),
        (lambda data: b"", "bytes, the manifest says"),
    ],
)
def test_a_damaged_export_is_found(
    exported17: Exported, jobs: int, change: Callable[[bytes], bytes], said: str
) -> None:
    exported17.change(jobs=jobs)
    made = exported17.make()
    largest = max(made.objects, key=lambda item: item.size)
    key = made.prefix + largest.name
    exported17.store.put(key, change(exported17.store.get(key)))
    found = problems(exported17, made)
    assert any(largest.name in problem and said in problem for problem in found)
    with pytest.raises(FinalError, match="read back and found whole"):
        newest_verified(exported17.store, "exchange", "all")
    assert not drill(exported17, made).ok
    assert drill_databases(exported17) == []


def test_an_object_that_is_gone_or_was_never_an_archive_is_found(exported17: Exported) -> None:
    made = exported17.make()
    key = f"{made.prefix}database.dump"
    exported17.store.put(key, b"no archive" * 1000)
    assert any("pg_restore" in problem for problem in problems(exported17, made))
    exported17.store.delete([key])
    assert "is missing" in problems(exported17, made)[0]
    assert not drill(exported17, made).ok


def test_a_drill_names_the_tables_that_differ(exported17: Exported) -> None:
    made = exported17.make()

    def change(database: str) -> None:
        exported17.world.run(database, "update campaigns set name = 'x' where id = 7", "delete from audit where id < 4")

    found = drill(exported17, made, on_restored=change)
    assert [text.partition(":")[0].partition(",")[0] for text in found.differences] == [
        "public.audit has 1997 rows",
        f"public.campaigns has the checksum {found.differences[1].split()[4].rstrip(',')}",
    ]
    assert drill_databases(exported17) == []


def test_a_drill_that_takes_longer_than_the_rto_is_no_success(exported17: Exported) -> None:
    found = drill(exported17, exported17.make("some"), rto=timedelta(milliseconds=1))
    assert not found.ok
    assert "the RTO is" in found.problems[0]
    assert found.differences == ()


def test_a_drill_refuses_the_server_that_was_exported(exported17: Exported) -> None:
    made = exported17.make("some")
    settings = exported17.settings.model_copy(update={"scratch": ExportScratch()})
    with pytest.raises(ProductionTarget, match="system identifier"):
        drill(exported17, made, settings=settings)
    assert drill_databases(exported17) == []


def test_what_a_killed_drill_left_is_dropped_by_the_next_and_nothing_else_is(exported17: Exported) -> None:
    made = exported17.make("some")

    class Killed(BaseException):
        pass

    left: list[str] = []

    def die(database: str) -> None:
        left.append(database)
        with exported17.world.admin() as cursor:  # as if the drop had never come
            cursor.execute(f"alter database {database} rename to {database}x")
        raise Killed

    with pytest.raises(Killed):
        drill(exported17, made, on_restored=die)
    foreign = "dbops_drill_00000000_abcdef"
    exported17.run(f"create database {foreign}")
    assert sorted(drill_databases(exported17)) == sorted([f"{left[0]}x", foreign])
    assert drill(exported17, made).ok
    assert drill_databases(exported17) == [foreign]
    exported17.run(f"drop database {foreign}")


# --- letting go -------------------------------------------------------------------------------------------


def test_old_exports_go_by_the_rules_and_the_newest_verified_stays(exported17: Exported) -> None:
    made = [exported17.make("some", run=f"run/{n}") for n in range(4)]
    for item in made[:3]:
        assert problems(exported17, item) == ()
    policy = Retention(full=DAY, incremental=DAY, floor=1, max_share=1)
    later = datetime.now(UTC) + 60 * DAY
    plan, there = plan_export_expiry(exported17.store, "exchange", "some", 30 * DAY, policy, later)
    gone = [item.point.id for item in plan.expire]
    assert made[2].id not in gone, "the newest that was read back"
    assert made[0].id in gone
    for id in gone:
        sha = there[id].manifest_sha256
        assert expire_export(exported17.store, "exchange", "some", id, sha, "a") is None
        assert expire_export(exported17.store, "exchange", "some", id, sha, "a") is None, "gone already"
    left = [item.id for item in exports(exported17.store, "exchange", "some")]
    assert made[2].id in left
    assert not set(gone) & set(left)
    keys = [key for key in exported17.stored() if any(id in key for id in gone)]
    assert keys == []


def test_an_interrupted_deletion_and_what_was_never_committed_are_swept(exported17: Exported) -> None:
    store, made = exported17.store, exported17.make("some")
    sha = exports(store, "exchange", "some")[0].manifest_sha256
    prefix = export_prefix("exchange", "some")
    store.put(f"{prefix}20200101T000000Z-aaaaaa/database.dump", b"never committed")
    assert sweep_exports(store, "exchange", "some", DAY, "a") == [], "it may be at work"
    assert sweep_exports(store, "exchange", "some", DAY, "a", datetime.now(UTC) + 2 * DAY) == [
        "20200101T000000Z-aaaaaa"
    ]
    store.put(f"{made.prefix}expired.json", store.get(f"{made.prefix}manifest.json"))
    store.delete([f"{made.prefix}manifest.json"])
    assert exports(store, "exchange", "some") == []
    assert sweep_exports(store, "exchange", "some", DAY, "a") == [made.id]
    assert [key for key in exported17.stored() if made.id in key] == []
    assert expire_export(store, "exchange", "some", made.id, sha, "a") is None


def test_one_export_of_a_name_runs_at_a_time(exported17: Exported) -> None:
    lease = Lease.acquire(exported17.store, lease_key("exchange", "all"), "another", timedelta(minutes=1))
    with pytest.raises(LeaseHeld, match="another"):
        exported17.make()
    lease.release()
    assert exported17.make().rows


def test_the_grants_of_the_role_are_enough_to_export_and_for_nothing_else(exported: Exported) -> None:
    from dbops import sql

    world, role = exported.world, f"dbops_export_{exported.database}"
    with world.admin() as cursor:
        cursor.execute(f"create role {role} login password 'export-only'")
    command = [str(world.server.binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"export={role}",
               "-h", "127.0.0.1", "-p", str(world.port), "-U", "postgres", "-d", exported.database,
               "-f", str(sql.DIRECTORY / "postgres" / "export_grants.sql")]  # fmt: skip
    subprocess.run(command, env={"PGPASSWORD": world.server.passwords["postgres"]}, check=True, capture_output=True)
    info = replace(exported.info, login=role, password="export-only")
    assert exported.make(info=info).rows == sum(ALL.values())
    from dbops.postgres.session import RightsMissing, Session

    with Session(info, database=exported.database) as session, pytest.raises(RightsMissing):
        session.run("delete from public.audit")
