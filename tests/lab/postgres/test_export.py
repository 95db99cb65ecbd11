"""Exports by the real pg_dump to a real S3: whole, from one snapshot, and nothing when something goes wrong."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest
from dbops.backups.store import open_store
from dbops.postgres.export_drill import run_export_drill
from dbops.postgres.export_verify import verify_export
from dbops.postgres.exports import exports, find_export
from dbops_lab.testing import LabS3
from export_world import Exported, exported_world, scratch_of
from postgres_world import World


@pytest.fixture
def exported(world: World, lab_s3: LabS3, tmp_path: Path) -> Exported:
    store = open_store(f"s3://{lab_s3.bucket}/{lab_s3.new_prefix()}", lab_s3.connection)
    return exported_world(world, lab_s3, store, tmp_path)


def test_an_export_holds_every_table_and_its_objects_are_what_the_manifest_says(exported: Exported) -> None:
    made = exported.make()
    rows = {str(table): table.rows for table in made.tables}
    assert rows == {
        "public.campaigns": 2000,
        "public.line_items": 2000,
        "public.events_01": 1053,
        "public.events_02": 947,
        "Odd one.Big, table": 50,
        "public.empty": 0,
        "public.audit": 2000,
    }
    (item,) = made.objects
    data = exported.store.get(made.prefix + item.name)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (item.size, item.sha256)
    assert [found.manifest for found in exports(exported.store, "exchange", "all")] == [made]
    report = verify_export(exported.store, find_export(exported.store, "exchange", "all", made.id), exported.settings)
    assert report.problems == ()
    assert report.bytes == made.stored_bytes


def test_directory(exported: Exported) -> None:
    exported.change(jobs=2)
    made = exported.make()
    assert made.format == "directory"
    report = verify_export(exported.store, find_export(exported.store, "exchange", "all", made.id), exported.settings)
    assert report.problems == ()


def test_some(exported: Exported) -> None:
    made = exported.make("some")
    assert {str(t) for t in made.tables} == {"public.line_items", "public.events_01", "public.events_02"}
    assert made.without_rows == ["public line_items line_items_campaign_id_fkey"]
    report = verify_export(exported.store, find_export(exported.store, "exchange", "some", made.id), exported.settings)
    assert report.problems == ()


@pytest.mark.parametrize(("name", "jobs"), [("all", 1), ("all", 2), ("some", 1), ("some", 2)])
def test_a_drill_gives_back_what_was_exported_and_leaves_nothing(exported: Exported, name: str, jobs: int) -> None:
    exported.change(name, jobs=jobs)
    made = exported.make(name)
    drill = run_export_drill(
        exported.store, made, exported.settings, scratch_of(exported.world), rto=timedelta(minutes=5), holder="drill"
    )
    assert drill.problems == ()
    assert drill.notes == ()
