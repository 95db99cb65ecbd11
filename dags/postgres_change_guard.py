"""Before a change of PostgreSQL: is there a way back, and may it be made now? Go or no-go, with every reason.

**What happens**: `look` checks what the operations guide asks for before a change (through a migration that was tried
in staging first, documented with its rollback, at the version it was written for) and that nothing on the instance is
in its way or would be made worse: standbys behind, waiting sessions, old transactions, few free connections, a full
disk, transaction ids, maintenance, an instance that RDS is at work on, a moment to come back to that is too old. Then
`snapshot` takes one (by name and tag one per run), and `decide` looks at all of it again, as of then. The verdict goes
to the summary channel and stands in the ledger. Nothing is changed: who asked makes the change, right after a go.

**When it fails**: that is a no-go; the error has the reasons, and what could not be looked at is one of them.
`include/runbooks/postgres_change.md` says what to do about each. Then trigger it again.

**By hand**: *Trigger*: the form asks for the change, its ticket and rollback, and the versions. Without Airflow:
`dbops postgres guard`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.postgres.guard_operators import ExamineChange, TakeChangeSnapshot
from dbops.tags import Tag

postgres = load_platform().postgres

if postgres is not None:
    with DAG(
        dag_id="postgres_change_guard",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.POSTGRES, Tag.CHANGE, Tag.WARNING],
        description="Go or no-go for a change of PostgreSQL, with a snapshot to come back to",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "postgres_change"),
        on_success_callback=resolve_on_success,
        params={
            "database": Param(
                postgres.databases[0],
                type="string",
                enum=list(postgres.databases),
                title="Database",
                description="Where the change is to be made.",
            ),
            "change": Param(
                "",
                type="string",
                title="Change",
                description="What is changed, in a sentence. Without it the answer is no-go.",
            ),
            "ticket": Param(
                "",
                type="string",
                title="Ticket",
                description="Where the change was agreed. Without it the answer is no-go.",
            ),
            "rollback": Param(
                "",
                type="string",
                title="Rollback",
                description="How it is taken back: `goose down`, a migration, the snapshot. Without it: no-go.",
            ),
            "expected_version": Param(
                None,
                type=["null", "integer"],
                minimum=0,
                title="Version before",
                description="Of goose, that the database must be at now. Empty: that of the platform file.",
            ),
            "new_version": Param(
                None,
                type=["null", "integer"],
                minimum=0,
                title="Version after",
                description="Of the migration; it must be applied in staging already. Empty: it is no migration.",
            ),
            "snapshot": Param(
                True,
                type="boolean",
                title="Take a snapshot",
                description="Of an instance on RDS. Without one, only recovery to a moment is a way back.",
            ),
        },
    ):
        look = ExamineChange(task_id="look", execution_timeout=timedelta(minutes=10))
        snapshot = TakeChangeSnapshot(
            task_id="snapshot",
            reason="before {{ params.ticket }} {{ params.change }}",
            limit=postgres.guard.snapshot_timeout,
        )
        decide = ExamineChange(
            task_id="decide",
            snapshot_task="snapshot",
            trigger_rule="none_failed",  # the snapshot may be left out
            execution_timeout=timedelta(minutes=10),
        )
        look >> snapshot >> decide
