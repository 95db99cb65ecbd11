"""What the tests of snapshots and restores share: a warehouse with days of rows in it, and how it is restored."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dbops.connections import ConnectionInfo
from dbops.platform import Archive, ArchiveTable, Redshift, load_platform
from dbops.platform.load import DIRECTORY
from dbops.redshift.api import redshift_client, tags_of
from dbops.redshift.restore_cluster import (
    Progress,
    RestorePlan,
    RestoreReport,
    advance,
    count_reference,
    count_restored,
    plan_restore,
    report_restore,
)
from dbops.redshift.session import open_session
from dbops.redshift.snapshots import Snapshots, open_snapshots, wait_for_snapshot
from dbops_lab.testing import LabRedshift, LabRedshiftApi
from sqlalchemy import Engine

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def aws_info(api: LabRedshiftApi) -> ConnectionInfo:
    """The AWS connection, giving up soon."""
    extra = {**api.connection.extra, "config_kwargs": {"proxies": {}, "retries": {"total_max_attempts": 2}}}
    return replace(api.connection, extra=extra)


def lab_warehouse(*, serverless: bool = False, **changes: Any) -> Redshift:
    """The lab's platform file's."""
    found = load_platform(DIRECTORY / "lab.yaml").redshift
    assert found is not None
    return found.model_copy(update={"serverless": serverless, **changes})


@dataclass
class Warehouse:
    """A schema with two archived tables: wins by timestamp, and daily by date; ten days, more rows each day."""

    lab: LabRedshift
    api: LabRedshiftApi
    serverless: bool = False
    schema: str = field(default_factory=lambda: f"restored_{secrets.token_hex(4)}")
    made: list[str] = field(default_factory=list)
    today: datetime = field(
        default_factory=lambda: datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    )

    def __post_init__(self) -> None:
        tables = (
            ArchiveTable(table=f"{self.schema}.wins", column="timestamp", keep=90 * DAY),
            ArchiveTable(table=f"{self.schema}.daily", column="date", keep=365 * DAY),
        )
        self.redshift = lab_warehouse(serverless=self.serverless, archive=Archive(tables=tables))
        self.info = self.lab.info()
        self.client = redshift_client(aws_info(self.api), "eu-west-1", serverless=self.serverless)
        self.snapshots: Snapshots = open_snapshots(self.redshift, aws_info(self.api))
        self.run(
            f"create schema {self.schema}",
            f'create table {self.schema}.wins (id bigint, "timestamp" timestamp) sortkey("timestamp")',
            f"create table {self.schema}.daily (id bigint, date date) sortkey(date)",
            *(self.rows_of(age, 10 + age) for age in range(10)),
        )

    def rows_of(self, age: int, count: int) -> str:
        at = f"{self.today - age * DAY + timedelta(hours=1):%F %T}"
        rows = ", ".join(f"({number}, '{at}')" for number in range(count))
        return f"insert into {self.schema}.wins values {rows}"

    def run(self, *statements: str) -> None:
        with open_session(self.info) as session:
            for statement in statements:
                session.run(statement)

    def count(self, info: ConnectionInfo) -> int:
        with open_session(info) as session:
            return int(session.rows(f"select count(*) from {self.schema}.wins")[0][0])

    # ------------------------------------------------------------------ snapshots and restores

    def snapshot(self, name: str = "") -> str:
        id = name or f"dbops-test-{secrets.token_hex(4)}"
        tags = tags_of("lab", "test/run", "a test")
        wait_for_snapshot(self.snapshots, id, tags, MINUTE, poll=0.05)
        return id

    def plan(
        self, snapshot: str | None = None, *, run: str = "", target: str | None = None, **words: Any
    ) -> RestorePlan:
        plan = plan_restore(
            self.client,
            self.snapshots,
            words.pop("redshift", self.redshift),
            platform="lab",
            run=run or f"redshift_restore/{secrets.token_hex(4)}",
            reason=words.pop("reason", "a test"),
            asked_at=datetime.now(UTC),
            snapshot=snapshot,
            target=target,
            **words,
        )
        self.made.append(plan.target)
        return plan

    def advance(self, plan: RestorePlan, limit: timedelta = MINUTE) -> Progress:
        return advance(self.client, plan, limit, datetime.now(UTC))

    def restore(self, plan: RestorePlan) -> Progress:
        """Step by step until it is there."""
        for _ in range(400):
            progress = self.advance(plan)
            if progress.done:
                return progress
            time.sleep(0.05)
        raise AssertionError(f"{plan.target} did not come")

    def report(self, plan: RestorePlan, progress: Progress, ledger: Engine | None = None) -> RestoreReport:
        return report_restore(
            plan,
            progress,
            self.redshift,
            count_restored(self.info, self.redshift, plan, progress),
            count_reference(ledger, self.info, self.redshift, plan),
            available_at=datetime.now(UTC),
            rto=timedelta(hours=1),
            now=datetime.now(UTC),
        )

    def close(self) -> None:
        self.api.s3.faults()
        self.info = self.lab.info()
        self.run(f"drop schema {self.schema} cascade")
        for item in self.snapshots.list():
            if item.kind == "manual":
                self.snapshots.delete(item.id)
        for name in set(self.made):
            self.remove(name)

    def remove(self, name: str) -> None:
        """A cluster, or namespace and workgroup, that a restore has made."""
        client = self.client
        if self.serverless:
            for call, words in (("workgroup", {"workgroupName": name}), ("namespace", {"namespaceName": name})):
                try:
                    getattr(client, f"delete_{call}")(**words)
                except client.exceptions.ResourceNotFoundException:
                    continue
            return
        try:
            client.delete_cluster(ClusterIdentifier=name, SkipFinalClusterSnapshot=True)
        except client.exceptions.ClusterNotFoundFault:
            return
