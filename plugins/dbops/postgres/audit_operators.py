"""Operators that compare PostgreSQL with what the platform file says of migrations, rights and the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from dbops.adapter import connection, open_ledger
from dbops.alerts import Alert, Severity
from dbops.errors import DbopsError
from dbops.platform import Postgres
from dbops.postgres.operators import instance, plain, reader, run_of

if TYPE_CHECKING:
    from airflow.sdk import Context
    from sqlalchemy import Engine

    from dbops.postgres.health import Check

TITLES: Mapping[str, str] = {
    "postgres_migrations": "migrations are not as expected",
    "postgres_audit_settings": "changes are not logged as they should be",
    "postgres_ddl": "schema or rights were changed by roles that should not",
    "postgres_access": "rights are not as agreed",
}
RUNBOOKS: Mapping[str, str] = {
    "postgres_migrations": "postgres_migrations",
    "postgres_audit_settings": "postgres_audit",
    "postgres_ddl": "postgres_audit",
    "postgres_access": "postgres_access",
}
MOST_ROWS = 200


class CheckMigrations(BaseOperator):
    """Compare goose's version in each database with `migrations` of the platform file.

    Guarantees: each database has a row in the ledger (`postgres_migrations`); a difference is one warning for as long
    as it lasts. What could not be looked at keeps the incident that it has, and fails the task.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.postgres.migrations import check_migrations

        _, postgres = instance()
        if not postgres.migrations:
            raise AirflowSkipException("the platform file names no versions (postgres.migrations)")
        return tell(self, context, check_migrations(postgres, reader(postgres)), ["postgres_migrations"])


class AuditChanges(BaseOperator):
    """Compare the settings of the audit, then look through what the log has got since the last look for changes.

    Guarantees: of the log nothing is left out and nothing looked at twice, whatever is retried: where a look ended is
    written down after what it found. Rows of the ledger: `postgres_audit_settings` and `postgres_ddl`. Literals of
    statements are masked. A log that cannot be read fails the task.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.postgres.audit import DDL, check_settings, keep_positions, load_positions
        from dbops.postgres.health import Check

        platform, postgres = instance()
        ledger, now, run = open_ledger(platform), datetime.now(UTC), run_of(context)
        checks, positions = [check_settings(postgres, reader(postgres))], None
        if postgres.audit.log == "none":
            self.log.info("the log is not looked at: audit.log is none in the platform file")
        else:
            before, since = load_positions(ledger, postgres.name, run)
            try:
                check, positions = self._look(postgres, before, since or now - postgres.audit.look_back)
            except DbopsError as error:
                check = Check(DDL, postgres.name, f"could not look: {error}", error=error)
            checks.append(check)
        return tell(
            self,
            context,
            checks,
            ["postgres_audit_settings", "postgres_ddl"],
            then=lambda: keep_positions(ledger, postgres.name, run, positions, now) if positions is not None else None,
        )

    @staticmethod
    def _look(postgres: Postgres, before: Any, since: datetime) -> Any:
        from dbops.postgres.audit import check_ddl
        from dbops.postgres.places import open_log

        with reader(postgres)(postgres.databases[0]) as session:
            source, form = open_log(postgres, session, connection)
            return check_ddl(postgres, source, form, before, since)


class ReviewRights(BaseOperator):
    """Compare roles and rights with `access` of the platform file.

    Guarantees: nothing is changed: the statement that ends a finding stands beside it. Rows of the ledger:
    `postgres_access` for the roles and for each database, and `postgres_access_finding` for each difference; one
    warning for each of the former for as long as there are any. What could not be looked at fails the task.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_check
        from dbops.postgres.access import review_access

        platform, postgres = instance()
        if not postgres.access:
            raise AirflowSkipException("the platform file says nothing of rights (postgres.access)")
        ledger, now, run = open_ledger(platform), datetime.now(UTC), run_of(context)
        checks = review_access(postgres, reader(postgres), now)
        for check in checks:
            for number, finding in enumerate(check.details.get("findings", ())[:MOST_ROWS]):
                self.log.warning("%s: %s %s: %s", check.target, finding["who"], finding["text"], finding["fix"])
                record_check(
                    ledger,
                    name="postgres_access_finding",
                    target=f"{check.target}/{number:03d}",
                    run=run,
                    at=now,
                    ok=False,
                    message=f"{finding['who']} {finding['text']}",
                    details=finding,
                )
        return tell(self, context, checks, ["postgres_access"])


def tell(
    task: BaseOperator, context: Context, checks: Sequence[Check], names: Sequence[str], then: Any = None
) -> dict[str, Any]:
    """Write checks down, raise and end their incidents; then fail if one could not look.

    :param names: of all checks of the task: incidents of those that are not looked at any more end.
    :param then: called when all is told, before the failure.
    """
    from dbops.alerts.airflow import report
    from dbops.postgres.health import could_not_look

    platform, _ = instance()
    ledger = open_ledger(platform)
    for check in checks:
        task.log.log(INFO if check.ok else WARNING, "%s: %s", check.key, check.message)
    _write_down(ledger, context, checks)
    known = {check.key for check in checks}
    report(
        context,
        [_alert(check) for check in checks if check.severity is not None],
        sorted(_open(ledger, names) - known | {check.key for check in checks if check.ok and not check.undecided}),
    )
    if then is not None:
        then()
    blind = could_not_look(checks)
    if blind is not None:
        raise blind
    return {"checks": len(checks), "problems": [check.key for check in checks if not check.ok]}


def _open(ledger: Engine, names: Sequence[str]) -> set[str]:
    from dbops.ledger import open_incidents

    return {key for name in names for key in open_incidents(ledger, f"{name}/")}


def _write_down(ledger: Engine, context: Context, checks: Sequence[Check]) -> None:
    from dbops.ledger import record_check

    now, run = datetime.now(UTC), run_of(context)
    for check in checks:
        record_check(
            ledger,
            name=check.name,
            target=check.target,
            run=run,
            at=now,
            ok=check.ok,
            value=check.value,
            limit=check.limit,
            unit=check.unit,
            message=check.message,
            details=plain(check.details),
        )


def _alert(check: Check) -> Alert:
    return Alert(
        severity=check.severity or Severity.WARNING,
        key=check.key,
        title=f"PostgreSQL {check.target}: {TITLES[check.name]}",
        what=check.message,
        value=None if check.value is None else f"{check.value:g}",
        limit=None if check.limit is None else f"{check.limit:g}",
        runbook=RUNBOOKS[check.name],
    )
