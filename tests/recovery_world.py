"""A platform whose instance is brought back: an instance with tables of its own, its CNAME, and who follows it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from dbops.backups.store import S3Store, Store
from dbops.connections import ConnectionInfo
from dbops.platform import load_platform
from dbops.postgres import recovery
from dbops.postgres.recovery import World
from dbops.postgres.recovery_compare import checksum
from dbops.postgres.recovery_plan import RecoveryPlan
from dbops.postgres.recovery_state import Recovery
from dbops_lab import connections
from dbops_lab.testing import LabKubernetes, LabRds
from sqlalchemy import Engine

PROJECT = Path(__file__).resolve().parents[1]
NAMESPACE, API, SYNCER = "production", "exchange-api", "syncer"
Work = Callable[[World, RecoveryPlan], Any]


class RecoveryWorld:
    """Tables `accounts` (2,000 rows with a key) and `log` (without one) in a schema of this test's own."""

    def __init__(self, rds: LabRds, kubernetes: LabKubernetes, folder: Path, ledger: Engine | None = None) -> None:
        self.rds, self.kubernetes, self.ledger = rds, kubernetes, ledger
        self.prefix = rds.s3.new_prefix()
        self.store: Store = S3Store(rds.s3.bucket, self.prefix, rds.s3.connection, rds.s3.region)
        self.schema = f"r_{secrets.token_hex(4)}"
        self.table, self.log = f"{self.schema}.accounts", f"{self.schema}.log"
        rds.rows(
            f"create schema {self.schema};"
            f"create table {self.table} (id int, region text, balance numeric(12,2), note text, at timestamptz,"
            "  primary key (region, id));"
            f"insert into {self.table} select n, 'eu', n * 1.25, 'account ' || n, '2026-01-01Z'::timestamptz + n * "
            "  interval '1 minute' from generate_series(1, 2000) n;"
            f"create table {self.log} (line text); insert into {self.log} select 'line ' || n % 7 from "
            "  generate_series(1, 50) n"
        )
        for name in (API, SYNCER):
            kubernetes.deploy(NAMESPACE, name, replicas=2)
        rds.past(rds.rows("select clock_timestamp()")[0][0])  # what is restored as of the latest moment has the tables
        self.file = folder / "recovery.yaml"
        self.configure()

    @property
    def connections(self) -> dict[str, connections.Connection]:
        password = self.rds.server.passwords["exchange"]
        nameserver, _, port = self.rds.nameserver.partition(":")
        return {
            "dbops_s3": connections.s3(int(self.rds.endpoint.rpartition(":")[2])),
            "dbops_kubernetes": self.kubernetes.connection,
            "dbops_nameserver": {"conn_type": "generic", "host": nameserver, "port": int(port)},
            "dbops_postgres_recovery": connections.postgres(self.rds.port, "exchange", password, host="not.used"),
        }

    def configure(self, **words: Any) -> None:
        """Write the platform file with other words in `postgres.recovery`."""
        platform = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
        section = {
            "validations": [
                {
                    "name": "accounts",
                    "database": "exchange",
                    "query": f"select count(*) from {self.table}",
                    "at_least": 1,
                }
            ],
            "tables": [{"database": "exchange", "table": name} for name in (self.table, self.log)],
            "record": {"name": self.rds.cname, "nameserver": "dbops_nameserver"},
            "kubernetes": {"namespace": NAMESPACE, "deployments": [{"name": API}, {"name": SYNCER}]},
        }
        platform["postgres"]["recovery"] = section | words
        platform["postgres"]["name"] = self.rds.name
        platform["storage"]["prefix"] = self.prefix
        self.file.write_text(yaml.safe_dump(platform))

    def open(self) -> World:
        """As a new process would."""
        found = {name: connections.info(name, value) for name, value in self.connections.items()}

        def connection(conn_id: str) -> ConnectionInfo:
            return found[conn_id]

        return recovery.open_world(load_platform(self.file), connection, self.store, self.ledger)

    # ------------------------------------------------------------------ the damage

    def moment(self) -> datetime:
        """A whole second that is over; what is changed later is later."""
        now: datetime = self.rds.rows("select clock_timestamp()")[0][0]
        second = now.astimezone(UTC).replace(microsecond=0)
        time.sleep(1.02 - now.microsecond / 1e6)
        return second.replace(microsecond=0)

    def damage(self) -> datetime:
        """An UPDATE without WHERE; the second before it, which can be restored."""
        self.moment()
        good = self.moment()
        self.rds.rows(f"update {self.table} set balance = 0")
        self.rds.past(good)
        return good

    def checksums(self, instance: str | None = None) -> list[tuple[int, str]]:
        world = self.open()
        place = self.rds.describe(instance)["Endpoint"]
        with world.open(place["Address"], place["Port"])("exchange") as session:
            return [checksum(session, name) for name in (self.table, self.log)]

    # ------------------------------------------------------------------ a recovery

    def begin(self, at: datetime | str, run: str | None = None, **words: Any) -> RecoveryPlan:
        text = at if isinstance(at, str) else at.isoformat()
        run = run or f"test/{secrets.token_hex(4)}"
        return recovery.begin(self.open(), run=run, reason="a test", at=text, asked_at=datetime.now(UTC), **words)

    def wait(self, work: Work, plan: RecoveryPlan, seconds: float = 30) -> Any:
        """Ask for a step until it is done, each time as a new process would."""
        end = time.monotonic() + seconds
        while (found := work(self.open(), plan)) is False:
            assert time.monotonic() < end, f"{work.__name__} is not done after {seconds:g} s"
            time.sleep(0.1)
        return found

    def state(self, plan: RecoveryPlan) -> Recovery:
        return Recovery(self.store, plan.target, self.ledger)

    def restored(self, plan: RecoveryPlan) -> None:
        self.wait(recovery.restore, plan)

    def approve(self, plan: RecoveryPlan) -> None:
        recovery.decided(self.open(), plan, approved=True, who="a test", asked_at=datetime.now(UTC))

    def roll_back(self, plan: RecoveryPlan) -> None:
        for _, work in recovery.BACK:
            self.wait(work, plan)

    def instances(self) -> list[str]:
        found = self.rds.client("rds").describe_db_instances()["DBInstances"]
        return sorted(item["DBInstanceIdentifier"] for item in found)
