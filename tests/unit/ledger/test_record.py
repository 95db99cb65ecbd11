"""What is written down, and that writing it twice is the same as once."""

from __future__ import annotations

from datetime import timedelta

from dbops.ledger import (
    known_since,
    never_drilled,
    record_action,
    record_check,
    record_expiry,
    record_restore_point,
    record_verification,
    transaction,
)
from dbops.ledger.models import Action, CheckResult, RestorePoint
from dbops.ledger.record import failures_of
from ledger_samples import LOCATION, SHA, START, manifest
from sqlalchemy import Engine, select, text


def test_a_restore_point_is_remembered_once(ledger: Engine) -> None:
    assert record_restore_point(ledger, manifest(), LOCATION, SHA)
    assert not record_restore_point(ledger, manifest(), LOCATION, SHA)
    with transaction(ledger) as session:
        (point,) = session.scalars(select(RestorePoint))
        assert (point.cluster, point.namespace, point.id) == ("eu", "bidder", "20261123T020000Z-full")
        assert (point.kind, point.records, point.deleted, point.stored_bytes) == ("full", 8192, 0, 700)
        assert (point.snapshot_at, point.committed_at) == (START, START + timedelta(minutes=3))
        assert (point.location, point.manifest_sha256) == (LOCATION, SHA)
        assert (point.verified_at, point.verified_ok, point.problems) == (None, None, [])


def test_namespaces_may_have_restore_points_of_the_same_id(ledger: Engine) -> None:
    assert record_restore_point(ledger, manifest(), LOCATION, SHA)
    assert record_restore_point(ledger, manifest("dmp"), LOCATION, SHA)


def test_the_newest_verification_stays(ledger: Engine) -> None:
    record_restore_point(ledger, manifest(), LOCATION, SHA)
    point = ("eu", "bidder", manifest().id)
    assert record_verification(ledger, *point, at=START + timedelta(hours=2), ok=False, problems=["truncated"])
    assert record_verification(ledger, *point, at=START + timedelta(hours=1), ok=True)
    with transaction(ledger) as session:
        row = session.get_one(RestorePoint, point)
        assert (row.verified_ok, row.problems) == (False, ["truncated"])
    assert record_verification(ledger, *point, at=START + timedelta(hours=3), ok=True)
    with transaction(ledger) as session:
        row = session.get_one(RestorePoint, point)
        assert (row.verified_ok, row.problems) == (True, [])


def test_verifying_an_unknown_restore_point_says_so(ledger: Engine) -> None:
    assert not record_verification(ledger, "eu", "bidder", "20260101T000000Z-full", at=START, ok=True)


def test_a_retried_check_replaces_its_row(ledger: Engine) -> None:
    first = {"name": "rpo", "target": "eu/bidder", "run": "r1", "value": 7.0, "limit": 6.0, "unit": "h"}
    record_check(ledger, **first, at=START, ok=False, message="too old")
    record_check(ledger, **first | {"value": 5.0}, at=START, ok=True, message="fresh", details={"id": "x"})
    record_check(ledger, **first | {"run": "r2"}, at=START, ok=False, message="too old")
    with transaction(ledger) as session:
        rows = session.scalars(select(CheckResult).order_by(CheckResult.run)).all()
        seen = [(row.run, row.ok, row.value, row.limit, row.unit, row.message, row.details) for row in rows]
    assert seen == [
        ("r1", True, 5.0, 6.0, "h", "fresh", {"id": "x"}),
        ("r2", False, 7.0, 6.0, "h", "too old", {}),
    ]


def test_an_action_keeps_its_start_and_takes_its_outcome(ledger: Engine) -> None:
    done = START + timedelta(minutes=5)
    record_action(ledger, name="backup", target="eu/bidder", run="r", started_at=START, outcome="running")
    for _ in range(2):
        record_action(
            ledger,
            name="backup",
            target="eu/bidder",
            run="r",
            started_at=START + timedelta(minutes=1),
            finished_at=done,
            outcome="done",
            details={"records": 5},
        )
    with transaction(ledger) as session:
        (row,) = session.scalars(select(Action))
        assert (row.started_at, row.finished_at, row.outcome) == (START, done, "done")
        assert row.details == {"records": 5}


def test_failures_of_a_run_start_with_the_first(ledger: Engine) -> None:
    for minute, (target, run, outcome) in enumerate([
        ("a", "r", "failed"),
        ("b", "r", "failed"),
        ("c", "r", "done"),
        ("a", "other", "failed"),
    ]):
        record_action(
            ledger,
            name="task",
            target=target,
            run=run,
            started_at=START,
            finished_at=START + timedelta(minutes=minute),
            outcome=outcome,  # type: ignore[arg-type]
            message=f"{target} broke",
        )
    assert failures_of(ledger, "r") == [("a", "a broke"), ("b", "b broke")]


def test_no_text_that_is_written_down_holds_a_secret(ledger: Engine) -> None:
    secret = "postgresql://ops:hunter2@db/exchange password=hunter2"
    record_restore_point(ledger, manifest(), LOCATION, SHA)
    record_verification(ledger, "eu", "bidder", manifest().id, at=START, ok=False, problems=[secret])
    details = {"deep": [{"error": secret}]}
    record_check(ledger, name="n", target="t", run="r", at=START, ok=False, message=secret, details=details)
    record_action(
        ledger,
        name="n",
        target="t",
        run="r",
        started_at=START,
        outcome="failed",
        message=secret,
        details=details,
    )
    with ledger.connect() as connection:
        for table in ("restore_point", "check_result", "action"):
            (row,) = connection.scalars(text(f"select {table}::text from {table}")).all()
            assert "exchange" in row
            assert "hunter2" not in row


def test_an_expired_point_is_gone_once_and_one_that_stays_is_not(ledger: Engine) -> None:
    record_restore_point(ledger, manifest(), LOCATION, SHA)
    point = ("eu", "bidder", manifest().id)
    for outcome, hours in (("skipped", 1), ("failed", 2), ("done", 3), ("done", 4)):
        record_expiry(
            ledger,
            *point,
            run="r1",
            at=START + timedelta(hours=hours),
            outcome=outcome,  # type: ignore[arg-type]
            message=f"is old, {outcome}",
            details={"plan": "s3://x"},
        )
        with transaction(ledger) as session:
            gone_at = session.get_one(RestorePoint, point).gone_at
            assert gone_at == (START + timedelta(hours=3) if outcome == "done" else None)
    with transaction(ledger) as session:
        (row,) = session.scalars(select(Action))
        assert (row.name, row.target, row.outcome) == ("expire", f"eu/bidder/{point[2]}", "done")
        assert (row.message, row.details) == ("is old, done", {"plan": "s3://x"})
    record_expiry(
        ledger, "eu", "dmp", "unknown", run="r1", at=START, outcome="done", message="it is no error", details={}
    )


def test_a_namespace_is_known_since_its_first_check_or_its_first_backup(ledger: Engine) -> None:
    def seen(target: str, hours: int, name: str = "aerospike_rpo") -> None:
        at = START + timedelta(hours=hours)
        record_check(ledger, name=name, target=target, run=f"run {hours}", at=at, ok=False, message="none")

    def known(namespace: str = "bidder") -> object:
        return known_since(ledger, "aerospike_rpo", "eu", namespace)

    assert known() is None
    for hours in (9, 8, 10):
        seen("eu/bidder", hours)
    seen("eu/bidder", 1, name="aerospike_rto")
    seen("apac/bidder", 1)
    assert known() == START + timedelta(hours=8)
    assert known("dmp") is None
    record_restore_point(ledger, manifest("dmp"), LOCATION, SHA)
    assert known("dmp") == START + timedelta(minutes=3)
    record_restore_point(ledger, manifest(), LOCATION, SHA)
    assert known() == START + timedelta(minutes=3)


def test_a_full_is_to_be_drilled_until_it_or_a_younger_point_was(ledger: Engine) -> None:
    def drilled(id: str, outcome: str) -> None:
        record_action(
            ledger, name="drill", target="eu/bidder", run=id, started_at=START, outcome=outcome,  # type: ignore[arg-type]
            details={"point": f"eu/bidder {id}"},
        )  # fmt: skip

    record_restore_point(ledger, manifest(), LOCATION, SHA)
    record_restore_point(ledger, manifest("dmp"), LOCATION, SHA)
    assert never_drilled(ledger, "drill") == []
    record_verification(ledger, "eu", "bidder", manifest().id, at=START, ok=True)
    record_verification(ledger, "eu", "dmp", manifest().id, at=START, ok=False, problems=["truncated"])
    assert never_drilled(ledger, "drill") == [("eu", "bidder")]
    drilled("20261122T020000Z-full", "done")
    assert never_drilled(ledger, "drill") == [("eu", "bidder")]
    drilled("20261123T060000Z-incremental", "failed")
    assert never_drilled(ledger, "drill") == []
