"""The operator that reviews who may what in the warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from dbops.adapter import connection, open_ledger
from dbops.platform import Severity, load_platform
from dbops.redshift.snapshot_operators import run_of, warehouse

if TYPE_CHECKING:
    from airflow.sdk import Context

CHECK = "redshift_access"
MOST_ROWS = 200


class ReviewAccess(BaseOperator):
    """Compare users, groups, roles and grants with `redshift.access` of the platform file.

    Guarantees: a login that does not see the rights of others is a failure, never a pass. Findings do not fail the
    task: they are a check `redshift_access` with a row each (`redshift_access_finding`), and one warning for as long as
    there are any. Nothing is changed: the statement that ends a finding stands beside it.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.alerts.airflow import notify, resolve
        from dbops.alerts.alert import Alert
        from dbops.ledger import record_check
        from dbops.redshift.access import review_access
        from dbops.redshift.session import open_session

        platform = load_platform()
        redshift, now = warehouse(platform), datetime.now(UTC)
        session = open_session(connection(redshift.connection))
        try:
            review = review_access(session, redshift.access, now)
        finally:
            session.close()
        note = partial(record_check, open_ledger(platform), run=run_of(context), at=now)
        for number, finding in enumerate(review.findings[:MOST_ROWS]):
            note(
                name=f"{CHECK}_finding",
                target=f"{redshift.name}/{number:03d} {finding.kind} {finding.who}",
                ok=False,
                message=finding.line,
                details={"kind": finding.kind, "who": finding.who, "text": finding.text, "fix": finding.fix},
            )
        count = len(review.findings)
        lines = [finding.line for finding in review.findings[:MOST_ROWS]]
        counted = {"users": review.users, "groups": review.groups, "roles": review.roles, "notes": list(review.notes)}
        message = f"{count} findings" if count else "as the platform file says"
        note(
            name=CHECK,
            target=redshift.name,
            ok=not count,
            value=count,
            limit=0,
            message=message,
            details=counted | {"lines": lines},
        )
        for line in [*(finding.line for finding in review.findings), *review.notes]:
            self.log.warning("%s", line)
        key = f"{CHECK}/{redshift.name}"
        if count:
            notify(
                Alert(
                    severity=Severity.WARNING,
                    key=key,
                    title=f"Rights in {redshift.name} go beyond what was agreed",
                    what=review.in_words(),
                    value=message,
                    limit="none",
                    run_url=str(context["ti"].log_url),
                    runbook="redshift_access",
                )
            )
        else:
            resolve(key)
        return {"findings": count, **counted}
