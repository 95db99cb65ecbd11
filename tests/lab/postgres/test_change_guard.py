"""Go when all is well, and no-go with the reason for each thing that is not, on a real instance behind RDS's API."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from dbops.errors import ConfigurationError
from dbops_lab.testing import LabRds
from guard_world import NEW, NOW, GuardWorld
from psycopg2.errors import QueryCanceled


@pytest.fixture(params=[14, 17])
def guarded(
    request: pytest.FixtureRequest, lab_rds_of: Callable[[int], LabRds], tmp_path: Path
) -> Iterator[GuardWorld]:
    rds = lab_rds_of(request.param)
    rds.clean()
    rds.settle()
    world = GuardWorld(rds, tmp_path)
    yield world
    world.end()
    rds.clean()


@pytest.fixture
def guarded17(lab_rds: LabRds, tmp_path: Path) -> Iterator[GuardWorld]:
    lab_rds.settle()
    world = GuardWorld(lab_rds, tmp_path)
    yield world
    world.end()


def test_a_change_that_may_be_made_is_a_go_with_everything_that_was_looked_at(guarded: GuardWorld) -> None:
    verdict = guarded.verdict()
    assert verdict.reasons == ()
    assert verdict.title == "GO: OPS-1 adds a column"
    names = {check.name.removeprefix("postgres_guard_").removeprefix("postgres_") for check in verdict.checks}
    assert names == {
        "documented", "backup", "instance", "replication_lag", "replication_slots", "blocked", "idle_in_transaction",
        "wraparound", "checksums", "disk", "connections", "transactions", "maintenance", "version", "staging",
    }  # fmt: skip


def test_what_is_not_documented_or_at_another_version_is_a_no_go(guarded: GuardWorld) -> None:
    verdict = guarded.verdict(what=" ", rollback="")
    assert verdict.reasons == ("documented: nobody has said what is changed, how it is rolled back",)
    (reason,) = guarded.verdict(expected=NOW - 1).reasons
    assert reason == f"version: the database is at version {NOW}; the change expects {NOW - 1}"
    assert guarded.against(expected=NOW) == []
    assert guarded.against(brings=None) == [], "a change that is no migration"
    (reason,) = guarded.verdict(brings=NEW + 1).reasons
    assert reason == f"staging: version {NEW + 1} was not tried in {guarded.stage}, which is at {NEW}"
    guarded.apply(guarded.stage, NOW - 5)
    (reason,) = guarded.verdict(brings=NOW - 5).reasons
    assert "goose would leave it out" in reason
    guarded.apply(guarded.shop, NEW)
    assert f"version {NEW} is applied already" in guarded.verdict(expected=NEW).reasons[0]
    guarded.run(guarded.shop, "drop table goose_db_version")
    assert "the database was never migrated" in guarded.verdict().reasons[0]
    with pytest.raises(ConfigurationError, match="is no database"):
        guarded.verdict(database="nowhere")


def test_what_a_change_would_wait_for_is_a_no_go(guarded: GuardWorld) -> None:
    guarded.run(guarded.shop, "create table t as select n, md5(n::text) as text from generate_series(1, 50000) n")
    guarded.write(long_transaction="1s")
    with closing(guarded.rds.connect(database=guarded.shop)) as old:
        old.cursor().execute("set application_name = 'terminal'")
        old.cursor().execute("table goose_db_version")
        time.sleep(1.1)
        (reason,) = guarded.verdict().reasons
        assert reason.startswith("transactions: 1 open transactions, the longest for ")
        assert " exchange 'terminal', idle in transaction" in reason
        assert guarded.against(database=guarded.stage, expected=NEW, brings=None) == [], "it holds nothing there"
    guarded.write(long_transaction="5m")

    def vacuum() -> None:
        with suppress(QueryCanceled):
            guarded.run(guarded.shop, "set vacuum_cost_delay = 20", "set vacuum_cost_limit = 1", "vacuum t")

    thread = threading.Thread(target=vacuum)
    thread.start()
    while (reasons := guarded.verdict().reasons) == () and thread.is_alive():
        time.sleep(0.05)
    guarded.admin("postgres", "select pg_cancel_backend(pid) from pg_stat_activity where query = 'vacuum t'")
    thread.join()
    assert reasons[0].startswith("maintenance: maintenance runs: VACUUM of exchange (pid ")


def test_no_way_back_or_no_room_is_a_no_go(guarded17: GuardWorld) -> None:
    guarded17.write(backup_age="1s")
    guarded17.rds.take(archive=10)
    time.sleep(3)  # a round that had begun may end first
    assert guarded17.against() == ["backup"]
    guarded17.rds.take(archive=1)
    guarded17.write(backup_age="15m", free_connections=100)
    assert guarded17.against() == ["connections"]
    guarded17.write(free_connections=30)
    guarded17.document["postgres"]["storage_gb"] = 0.000001
    guarded17.write()
    assert guarded17.against() == ["postgres_disk"]
    del guarded17.document["postgres"]["storage_gb"]
    guarded17.write()
    assert guarded17.against() == [], "RDS says how large it is"
    del guarded17.document["postgres"]["rds"]
    guarded17.write()
    (reason,) = guarded17.verdict().reasons
    assert "no section postgres.rds" in reason
    disk = next(check for check in guarded17.verdict().checks if check.name == "postgres_disk")
    assert "not looked at" in disk.message


def test_the_snapshot_of_the_change_must_be_there_and_usable(guarded17: GuardWorld) -> None:
    rds = guarded17.rds
    (reason,) = guarded17.verdict(snapshot="no-such").reasons
    assert reason == "snapshot: snapshot no-such of this change is gone"
    rds.client("rds").create_db_snapshot(DBInstanceIdentifier=rds.name, DBSnapshotIdentifier="before-ops-1")
    rds.wait_snapshot("before-ops-1")
    rds.wait(rds.name)
    verdict = guarded17.verdict(snapshot="before-ops-1")
    assert verdict.reasons == ()
    assert any("snapshot before-ops-1 was taken at 20" in check.message for check in verdict.checks)


def test_what_cannot_be_looked_at_is_a_no_go(guarded17: GuardWorld) -> None:
    guarded17.rds.s3.faults({"key": "Action=DescribeDBInstances", "status": 400, "code": "AccessDenied", "times": 20})
    reasons = guarded17.verdict().reasons
    guarded17.rds.s3.faults()
    assert len(reasons) == 1
    assert reasons[0].startswith("backup: could not look: describe instance")
    guarded17.session = lambda database: (_ for _ in ()).throw(ConfigurationError("no login"))  # type: ignore[method-assign]
    verdict = guarded17.verdict()
    assert len(verdict.reasons) == 12
    assert all("could not look: no login" in reason for reason in verdict.reasons)
