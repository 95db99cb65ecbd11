"""`dbops backup pin`, `unpin` and `retention` against the lab's bucket and ledger, by a person or a script."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbops import ledger
from dbops.backups import catalog
from dbops.backups.lease import Lease
from dbops.backups.store import S3Store, Store
from dbops.cli import app
from dbops.platform.load import DIRECTORY
from dbops_lab import connections
from dbops_lab.testing import LabPostgres, LabS3
from points_world import DAY, HOUR, NOW, ids, listed, names_below, take_chain
from restore_documents import put_restore, restores_left
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

Run = Callable[..., Result]
PLACE = ("eu", "bidder")


@pytest.fixture
def store(lab_s3: LabS3) -> Iterator[Store]:
    """The bucket of the lab's platform, without backups."""
    store = S3Store(lab_s3.bucket, "", lab_s3.connection)

    def empty() -> None:
        store.delete([item.key for prefix in ("aerospike/", "restores/") for item in store.list(prefix)])

    empty()
    yield store
    empty()  # other tests use the same bucket


@pytest.fixture
def engine(lab_postgres: LabPostgres) -> Engine:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    engine.info = info  # type: ignore[attr-defined]
    return engine


@pytest.fixture
def run(store: Store, engine: Engine, lab_s3: LabS3, monkeypatch: pytest.MonkeyPatch) -> Run:
    info = engine.info  # type: ignore[attr-defined]
    uris = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        "dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2])),
    }
    for name, value in {**connections.variables(uris), "DBOPS_PLATFORM": "lab", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)

    def invoke(*args: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, ["backup", *args], input=typed)

    return invoke


def actions(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT target, outcome, message, details FROM action ORDER BY id")))


def test_plan_shows_a_reason_for_every_point_and_deletes_nothing(run: Run, store: Store) -> None:
    old, *rest = [take_chain(store, age)[0] for age in (20, 9, 3, 2, 1)]
    before = names_below(store, "")
    shown = run("retention", "eu", "--plan")
    assert shown.exit_code == 0
    for manifest in (old, *rest):
        assert manifest.id in shown.stdout
    assert "EXPIRES" in " ".join(shown.stdout.split())
    assert "is 20 d old, fulls are kept 7 d" in " ".join(shown.stdout.split())
    found = json.loads(run("retention", "--plan", "--json").stdout)
    assert [(one["plan"]["cluster"], one["plan"]["namespace"]) for one in found] == [
        (cluster, namespace) for cluster in ("eu", "apac") for namespace in ("bidder", "dmp", "spend")
    ]
    assert {item["id"]: item["keep"] for item in found[0]["plan"]["items"]} == {
        old.id: False,
        **{manifest.id: True for manifest in rest},
    }
    assert names_below(store, "") == before


def test_it_deletes_after_the_right_text_only(run: Run, store: Store, engine: Engine) -> None:
    old = take_chain(store, 20, 1)
    kept = [take_chain(store, age)[0] for age in (9, 3, 2)]
    for typed in ("\n", "yes\n", "expire 1 restore point\n", None):
        refused = run("retention", "eu", typed=typed)
        assert refused.exit_code == 1
        assert "Type 'expire 2 restore points' to go on" in " ".join(refused.stderr.split())
        assert "not confirmed: nothing was deleted" in " ".join(refused.stderr.split())
    for given in ("yes", "expire 3 restore points"):
        wrong = run("retention", "eu", "--yes", given)
        assert wrong.exit_code == 2
        assert "the plan asks for 'expire 2 restore points': nothing was deleted" in " ".join(wrong.stderr.split())
    assert run("retention", "eu", "--json").exit_code == 2
    assert listed(store) == ids([*old, *kept])

    manifest = catalog.find(store, *PLACE, old[0].id).manifest
    ledger.record_restore_point(engine, manifest, "s3://x", "00" * 32)
    done = run("retention", "eu", typed="expire 2 restore points\n")
    assert done.exit_code == 0, done.stderr
    assert listed(store) == ids(kept)
    rows = actions(engine)
    assert [(row.target, row.outcome) for row in rows] == [(f"eu/bidder/{point.id}", "done") for point in reversed(old)]
    assert "is 20 d old" in rows[1].message
    assert store.head(rows[1].details["plan"].removeprefix(f"{store.url}/"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT gone_at FROM restore_point")).scalar_one() is not None
    assert run("retention", "eu").exit_code == 0, "nothing to do asks nothing"


def test_a_script_confirms_with_the_text_and_reads_json(run: Run, store: Store) -> None:
    old = take_chain(store, 20)
    kept = [take_chain(store, age)[0] for age in (9, 3, 2)]
    done = run("retention", "eu", "-n", "bidder", "--yes", "expire 1 restore point", "--json")
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["expired"] == ids(old)
    assert found["failed"] == found["skipped"] == {}
    assert store.head(found["stored_as"])
    assert listed(store) == ids(kept)


def test_more_than_the_guard_lets_go_asks_for_another_text(run: Run, store: Store) -> None:
    for age in (30, 25, 20, 15, 2, 1):
        take_chain(store, age)
    shown = run("retention", "eu", "--yes", "expire 3 restore points")
    assert shown.exit_code == 0, "3 of 6 is no more than half"
    take_chain(store, 0.5)
    for age in (40, 39, 38, 37, 36):
        take_chain(store, age)
    refused = run("retention", "eu", "--yes", "expire 5 restore points")
    assert refused.exit_code == 2
    assert "5 of 9 restore points would go, 56%; more than 50% at once needs a person's approval" in " ".join(
        refused.stderr.split()
    )
    assert "the plan asks for 'mass expire 5 restore points'" in " ".join(refused.stderr.split())
    assert run("retention", "eu", "--yes", "mass expire 5 restore points").exit_code == 0
    assert len(listed(store)) == 4


def test_a_running_backup_is_named_and_the_other_namespaces_go_on(run: Run, store: Store) -> None:
    for namespace in ("bidder", "dmp"):
        for age in (20, 9, 3, 2):
            take_chain(store, age, namespace=namespace)
    lease = Lease.acquire(store, catalog.lease_key(*PLACE), "a backup", HOUR)
    done = run("retention", "eu", "--yes", "expire 2 restore points")
    assert done.exit_code == 1
    assert "eu/bidder: lease" in " ".join(done.stderr.split())
    assert "held by a backup" in " ".join(done.stderr.split())
    assert (len(listed(store)), len(listed(store, namespace="dmp"))) == (4, 3)
    lease.release()


def test_pin_and_unpin(run: Run, store: Store) -> None:
    old = take_chain(store, 20)[0]
    for age in (9, 3, 2):
        take_chain(store, age)
    pinned = run("pin", *PLACE, old.id, "--reason", "audit 2026")
    assert pinned.exit_code == 0
    assert f"eu/bidder {old.id} is pinned by " in pinned.stdout
    assert pinned.stdout.endswith(": audit 2026\n")
    (row, *_) = json.loads(run("list", "eu", "-n", "bidder", "--json").stdout)
    assert row["id"] == old.id
    assert row["pinned"].endswith("audit 2026")
    assert "is pinned by" in run("retention", "eu", "--plan").stdout
    assert run("retention", "eu").exit_code == 0
    assert old.id in listed(store)
    assert "is not pinned any more" in run("unpin", *PLACE, old.id).stdout
    assert "was not pinned" in run("unpin", *PLACE, old.id).stdout
    assert run("retention", "eu", "--yes", "expire 1 restore point").exit_code == 0
    assert old.id not in listed(store)


def test_it_sweeps_what_dry_runs_of_restores_have_left(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lab_s3: LabS3
) -> None:
    dry, real = put_restore(store, NOW - 9 * DAY, dry_run=True), put_restore(store, NOW - 9 * DAY)
    file = tmp_path / "impatient.yaml"
    lab = (DIRECTORY / "lab.yaml").read_text()
    file.write_text(lab.replace("  incremental: 7d\n", "  incremental: 7d\n  grace: 1s\n", 1))
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))
    time.sleep(1.1)
    assert run("retention", "eu", "--plan").exit_code == 0
    assert restores_left(store) == {dry, real}
    lab_s3.faults({"method": "POST", "key": "delete", "status": 403, "times": 9})
    refused = run("retention", "eu")
    lab_s3.faults()
    assert refused.exit_code == 1
    assert f"restores: {dry}: " in refused.stderr
    assert run("retention", "eu").exit_code == 0
    assert restores_left(store) == {real}


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("pin", "eu", "bidder", "20260101T000000Z-full", "--reason", "x"), 1, "no such restore point"),
        (("pin", "eu", "bidder", "nonsense", "--reason", "x"), 1, "no such restore point"),
        (("pin", "eu", "bidder", "20260101T000000Z-full", "--reason", " "), 2, "say why"),
        (("pin", "eu", "bidder", "20260101T000000Z-full"), 2, "Missing option"),
        (("pin", "eu", "nope", "x", "--reason", "x"), 2, "is no namespace of cluster eu"),
        (("unpin", "nope", "bidder", "x"), 2, "is no Aerospike cluster"),
        (("unpin", "eu", "bidder", "20260101T000000Z-full"), 1, "no such restore point"),
        (("retention", "nope"), 2, "is no Aerospike cluster"),
    ],
)
def test_wrong_usage_is_told_from_what_is_not_there(run: Run, args: tuple[str, ...], code: int, text: str) -> None:
    result = run(*args)
    assert result.exit_code == code
    assert text in result.output + result.stderr
