"""What tests of the maintenance of a warehouse share: a schema of its own, a ledger, plans and runs."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from dbops import ledger
from dbops.connections import ConnectionInfo
from dbops.platform import Redshift, Vacuum
from dbops.redshift.maintain import Deadlines, Maintainer, StepResult
from dbops.redshift.plan import MaintenancePlan, plan_maintenance
from dbops.redshift.session import ConnectorSession
from dbops_lab import connections
from dbops_lab.postgres import ADMIN, WAREHOUSE
from dbops_lab.redshift.process import StandIn
from dbops_lab.testing import LabPostgres, LabRedshift, LabS3
from psycopg2 import sql
from sqlalchemy import Engine

ROWS = "insert into {0} select 1, '2026-01-01'::date union all select 2, '2026-01-02' union all select 3, '2026-01-03'"
FUTURE = timedelta(hours=1)


HISTORY = ("query", "load", "load_file", "load_error", "alert", "scan", "vacuum", "analyze")


class OwnRedshift(LabRedshift):
    """A warehouse that no other test uses: its history may be planted and forgotten."""

    def __init__(self, standin: StandIn, postgres: LabPostgres, s3: LabS3) -> None:
        super().__init__(standin, postgres.server.passwords[WAREHOUSE], s3)
        self.user = WAREHOUSE
        self.postgres = postgres
        self.connection = connections.redshift(self.port, self.user, self.password, self.database)

    def forget(self) -> None:
        """No statement was ever run, no load made."""
        self.admin(*(f"delete from rs.j_{kind}" for kind in HISTORY))

    def admin(self, *statements: str) -> None:
        """Of PostgreSQL's administrator, in the stand-in's own tables."""
        with closing(self.postgres.server.connect(ADMIN, self.database)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

    def plant(self, kind: str, *records: dict[str, Any]) -> None:
        self.standin.plant(kind, *({"username": self.user} | record for record in records))


@contextmanager
def own_redshift(postgres: LabPostgres, s3: LabS3) -> Iterator[OwnRedshift]:
    name = f"wh_{secrets.token_hex(4)}"
    with closing(postgres.server.connect(ADMIN)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("create database {} owner {}").format(*map(sql.Identifier, (name, WAREHOUSE))))
    standin = StandIn(
        postgres_port=postgres.port,
        database=name,
        admin=(ADMIN, postgres.server.passwords[ADMIN]),
        s3_endpoint=s3.endpoint,
        s3_keys=(connections.ACCESS_KEY, connections.SECRET_KEY),
    )
    with standin:
        yield OwnRedshift(standin, postgres, s3)


class MaintenanceWorld:
    """:param engine: a migrated ledger."""

    def __init__(self, lab: LabRedshift, engine: Engine | None) -> None:
        self.lab, self.engine = lab, engine
        self.schema = f"maint_{secrets.token_hex(4)}"
        self.admin = ConnectorSession(lab.info())
        self.admin.run(f"create schema {self.schema}")
        self.admin.run(f"set search_path to {self.schema}")
        self.admin.run("set query_group to 'tests'")  # not what this package runs
        self.redshift = Redshift(name="bedrock", connection="dbops_redshift", vacuum=Vacuum(sort_benefit=0))
        self.run_id = f"test/{secrets.token_hex(4)}"
        self.extra: list[ConnectorSession] = []

    def close(self) -> None:
        for session in self.extra:
            session.close()
        self.lab.standin.faults()
        self.admin.run(f"drop schema {self.schema} cascade")
        self.admin.close()

    def session(self, info: ConnectionInfo | None = None) -> ConnectorSession:
        made = ConnectorSession(info or self.lab.info())
        self.extra.append(made)
        return made

    def user(self, *grants: str) -> ConnectionInfo:
        """A login that is no superuser, with these grants ({user} stands for its name)."""
        name, password = f"u_{secrets.token_hex(4)}", f"Pw1{secrets.token_hex(8)}"
        self.admin.run(f"create user {name} password '{password}'")
        for grant in grants:
            self.admin.run(grant.format(user=name))
        made = connections.redshift(self.lab.port, name, password, self.lab.database)
        return connections.info("dbops_redshift", made)

    def table(self, name: str = "t", keys: str = "sortkey (day)", *, times: int = 2, deleted: bool = True) -> str:
        """A table of which the second half is unsorted and a third deleted; its name."""
        self.admin.run(f"create table {name} (id int, day date) {keys}")
        for _ in range(times):
            self.admin.run(ROWS.format(name))
        if deleted:
            self.admin.run(f"delete from {name} where id = 1")
        return f"{self.schema}.{name.replace(chr(34), '')}"

    def figures(self, name: str = "t") -> tuple[float | None, int, float]:
        """Unsorted percent, deleted rows, percent that statistics are off."""
        (row,) = self.admin.rows(
            "select unsorted, tbl_rows - estimated_visible_rows, stats_off from svv_table_info"
            ' where schema = %s and "table" = %s', self.schema, name,
        )  # fmt: skip
        return None if row[0] is None else float(row[0]), int(row[1]), float(row[2])

    def plan(self, *tables: str) -> MaintenancePlan:
        wanted = tables or tuple(
            f"{self.schema}.{row[0]}"
            for row in self.admin.rows('select "table" from svv_table_info where schema = %s', self.schema)
        )
        return plan_maintenance(self.admin, self.redshift, run=self.run_id, tables=wanted)[0]

    def maintainer(
        self,
        *,
        connect: Callable[[], Any] | None = None,
        info: ConnectionInfo | None = None,
        last_start: timedelta = FUTURE,
        hard_end: timedelta = 2 * FUTURE,
        old_transaction: timedelta = FUTURE,
    ) -> Maintainer:
        now = datetime.now(UTC)
        return Maintainer(
            connect or (lambda: ConnectorSession(info or self.lab.info())),
            Deadlines(now + last_start, now + hard_end),
            old_transaction=old_transaction,
            ledger=self.engine,
            poll_seconds=0.1,
            settle_seconds=0.3,
        )

    def carry_out(self, plan: MaintenancePlan | None = None, **settings: Any) -> list[StepResult]:
        return self.maintainer(**settings).carry_out(plan or self.plan())

    def rows(self, run: str | None = None) -> list[ledger.PastAction]:
        from dbops.redshift.plan import STEPS

        assert self.engine is not None
        return ledger.actions_of(self.engine, run or self.run_id, STEPS)

    def vacuums(self, name: str = "t") -> list[tuple[str, str]]:
        """Type and status of each VACUUM that the history has of a table."""
        return [
            (str(kind), str(status))
            for kind, status in self.admin.rows(
                "select trim(vacuum_type), trim(status) from sys_vacuum_history"
                " where schema_name = %s and table_name = %s order by start_time", self.schema, name,
            )
        ]  # fmt: skip


def summary(results: list[StepResult]) -> list[tuple[str, str]]:
    return [(str(result.step.form or "analyze"), result.outcome) for result in results]
