"""The ledger's restore points can be made again from the bucket, through the `dbops` command too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dbops.backups import catalog
from dbops.backups.manifest import Manifest, Verified
from dbops.backups.store import LocalStore, Store
from dbops.cli import app
from dbops.ledger import record_restore_point, transaction
from dbops.ledger.models import RestorePoint
from dbops.ledger.rebuild import RebuildReport, rebuild
from dbops.platform import Platform, load_platform
from dbops_lab import connections
from dbops_lab.testing import LabPostgres, LabS3
from ledger_samples import START, manifest
from sqlalchemy import Engine, select
from typer.testing import CliRunner

FULL = "eu/bidder/20261123T020000Z-full"


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("DBOPS_PLATFORM", "lab")
    return load_platform()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def commit(store: Store, committed: Manifest) -> None:
    store.put(catalog.manifest_key(committed.cluster, committed.namespace, committed.id), committed.to_json())


def write_verified(store: Store, committed: Manifest, **changes: Any) -> None:
    sha256 = catalog.manifest_sha256(committed)
    values = {"at": START + timedelta(hours=1), "manifest_sha256": sha256, "ok": True, "problems": []}
    verified = Verified.model_validate(values | changes)
    store.put(catalog.verified_key(committed.cluster, committed.namespace, committed.id), verified.to_json())


def rows(ledger: Engine) -> dict[str, RestorePoint]:
    with transaction(ledger) as session:
        session.expire_on_commit = False
        found = session.scalars(select(RestorePoint))
        return {f"{row.cluster}/{row.namespace}/{row.id}": row for row in found}


def test_a_lost_ledger_is_the_same_after_a_rebuild(
    ledger: Engine, lab_postgres: LabPostgres, store: LocalStore, platform: Platform
) -> None:
    found = [manifest(), manifest("dmp"), manifest(snapshot_at=START + timedelta(days=1))]
    for committed in found:
        commit(store, committed)
        location = f"{store.url}/{committed.prefix}"
        record_restore_point(ledger, committed, location, catalog.manifest_sha256(committed))
    before = {name: row.__dict__ for name, row in rows(ledger).items()}
    assert rebuild(ledger, store, platform) == RebuildReport(unchanged=3)
    with transaction(ledger) as session:
        session.query(RestorePoint).delete()
    report = rebuild(ledger, store, platform)
    assert sorted(report.added) == sorted(before)
    after = {name: row.__dict__ for name, row in rows(ledger).items()}
    for values in (*before.values(), *after.values()):
        values.pop("_sa_instance_state")
    assert after == before


def test_rebuilding_twice_changes_nothing_more(ledger: Engine, store: LocalStore, platform: Platform) -> None:
    commit(store, manifest())
    write_verified(store, manifest())
    assert rebuild(ledger, store, platform).added == [FULL]
    assert rebuild(ledger, store, platform) == RebuildReport(unchanged=1)


def test_what_verify_found_is_taken_from_the_bucket(ledger: Engine, store: LocalStore, platform: Platform) -> None:
    commit(store, manifest())
    rebuild(ledger, store, platform)
    assert rows(ledger)[FULL].verified_ok is None
    write_verified(store, manifest(), ok=False, problems=["slice_0000_4095.asb: password=hunter2"])
    assert rebuild(ledger, store, platform).changed == [FULL]
    row = rows(ledger)[FULL]
    assert (row.verified_ok, row.verified_at) == (False, START + timedelta(hours=1))
    assert row.problems == ["slice_0000_4095.asb: password=***"]
    assert rebuild(ledger, store, platform) == RebuildReport(unchanged=1)


def test_a_point_that_is_gone_stays_in_the_ledger_marked(ledger: Engine, store: LocalStore, platform: Platform) -> None:
    commit(store, manifest())
    rebuild(ledger, store, platform)
    store.delete([catalog.manifest_key("eu", "bidder", manifest().id)])
    assert rebuild(ledger, store, platform) == RebuildReport(gone=[FULL])
    assert rows(ledger)[FULL].gone_at is not None
    assert rebuild(ledger, store, platform) == RebuildReport()
    commit(store, manifest())
    assert rebuild(ledger, store, platform).changed == [FULL]
    assert rows(ledger)[FULL].gone_at is None


def test_a_damaged_manifest_is_named_and_what_is_known_of_it_stays(
    ledger: Engine, store: LocalStore, platform: Platform
) -> None:
    commit(store, manifest())
    rebuild(ledger, store, platform)
    store.put(catalog.manifest_key("eu", "bidder", manifest().id), manifest().to_json()[:-100])
    report = rebuild(ledger, store, platform)
    assert list(report.unreadable) == [FULL]
    assert (report.gone, report.changed) == ([], [])
    assert rows(ledger)[FULL].records == 8192


def test_a_point_that_is_committed_during_a_rebuild_is_not_called_gone(
    ledger: Engine, store: LocalStore, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = catalog.restore_points

    def then_one_more(*arguments: Any) -> list[catalog.RestorePoint]:
        listed = real(*arguments)
        committed = manifest(arguments[2])
        if arguments[1] == committed.cluster:
            commit(store, committed)
            record_restore_point(ledger, committed, "x", catalog.manifest_sha256(committed))
        return listed

    monkeypatch.setattr(catalog, "restore_points", then_one_more)
    assert rebuild(ledger, store, platform).gone == []
    assert all(row.gone_at is None for row in rows(ledger).values())


@pytest.fixture
def environment(
    lab_postgres: LabPostgres, lab_s3: LabS3, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """The connections of an empty ledger and of the lab's bucket."""
    from dbops.ledger import connect

    info = lab_postgres.new_database()
    password = lab_postgres.server.passwords["dbops_ledger"]
    made = {
        "dbops_ledger": connections.postgres(lab_postgres.port, "dbops_ledger", password, info.schema),
        "dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2])),
    }
    for name, value in connections.variables(made).items():
        monkeypatch.setenv(name, value)
    yield connect(info)
    for entry in lab_s3.client.list_objects_v2(Bucket=lab_s3.bucket).get("Contents", []):
        lab_s3.client.delete_object(Bucket=lab_s3.bucket, Key=entry["Key"])


def dbops(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ledger", *arguments])
    return result.exit_code, result.output


def test_the_command_migrates_shows_and_rebuilds(environment: Engine, lab_s3: LabS3) -> None:
    code, output = dbops("status", "--json")
    assert (code, json.loads(output)["ready"]) == (1, False)
    code, output = dbops("migrate", "--json")
    assert (code, json.loads(output)["changed"]) == (0, True)
    code, output = dbops("migrate")
    assert code == 0
    assert "already" in output
    key = catalog.manifest_key("eu", "bidder", manifest().id)
    lab_s3.client.put_object(Bucket=lab_s3.bucket, Key=key, Body=manifest().to_json())
    code, output = dbops("rebuild", "--json")
    assert (code, json.loads(output)["added"]) == (0, [FULL])
    code, output = dbops("rebuild")
    assert code == 0
    assert "1 unchanged" in output
    lab_s3.client.put_object(Bucket=lab_s3.bucket, Key=key, Body=b"{")
    code, output = dbops("rebuild")
    assert code == 1
    assert f"damaged  {FULL}" in output
    code, output = dbops("status", "--json")
    assert code == 0
    rows = {"action": 0, "archived_partition": 0, "check_result": 0, "incident": 0, "restore_point": 1}
    assert json.loads(output)["rows"] == rows
    code, output = dbops("status")
    assert code == 0
    assert "0 rows, 0 open" in output


def test_without_a_connection_the_command_says_which_one(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_DBOPS_LEDGER", raising=False)
    code, output = dbops("status")
    assert code == 2
    assert "AIRFLOW_CONN_DBOPS_LEDGER" in output
