"""Brings archived days of the warehouse back, by hand: into side tables, or from there into the table they were in.

**What happens**: `plan` looks up the parts of the days, and whether their files can be read at once. `load` copies a
day into a side table of its own (`<table>_restored_<day>`) and compares it with what was archived, figure by figure. In
mode `side` that is all. In mode `attach` a person approves, then `attach` moves each day into its table, in one
transaction; archival leaves the day there for as long as the form says.

**When it fails**: clear the failed task and what follows, a day may be repeated at any time. What each refusal means:
`include/runbooks/redshift_archive_restore.md`.

**By hand**: *Trigger*; without Airflow `dbops archive restore`. To read archived days without the warehouse:
`dbops archive query`, or Athena, DuckDB or pyarrow on `s3://<bucket>/archive/<table>/`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, TriggerRule
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.approval_operators import ApprovePlan
from dbops.platform import Severity, load_platform
from dbops.redshift.archive_operators import AttachArchivedDay, PlanArchiveRestore, RestoreArchivedDay
from dbops.tags import Tag

redshift = load_platform().redshift
tables = [table.dataset for table in redshift.archive.tables] if redshift else []

if redshift and tables:
    with DAG(
        dag_id="redshift_archive_restore",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.REDSHIFT, Tag.ARCHIVE, Tag.RESTORE, Tag.WARNING],
        description="Brings archived days of the warehouse back",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "redshift_archive_restore"),
        on_success_callback=resolve_on_success,
        params={
            "table": Param(
                tables[0],
                type="string",
                title="Table",
                description="As `dbops archive list` names it.",
                examples=tables,
            ),
            "first_day": Param(
                None,
                type=["null", "string"],
                format="date",
                title="First day",
                description="Of the days that come back; needed.",
            ),
            "last_day": Param(
                None, type=["null", "string"], format="date", title="Last day", description="Empty: the first one."
            ),
            "mode": Param(
                "side",
                type="string",
                enum=["side", "attach"],
                title="Mode",
                description="side: into tables of their own. attach: from there into the table where they were, after "
                "an approval.",
            ),
            "keep_days": Param(
                7,
                type="integer",
                minimum=1,
                maximum=3650,
                title="Keep, days",
                description="How long archival leaves attached days in their table.",
            ),
            "thaw": Param(
                False,
                type="boolean",
                title="Thaw",
                description="When files lie in Glacier or Deep Archive: ask S3 to thaw them. The run then fails; "
                "trigger it again when they are thawed.",
            ),
        },
    ):
        plan = PlanArchiveRestore(task_id="plan")
        load = RestoreArchivedDay.partial(
            task_id="load", execution_timeout=timedelta(hours=6), map_index_template="{{ slice_name }}"
        ).expand(slice=plan.output)
        approve = ApprovePlan(
            task_id="approve",
            plan_task="plan",
            subject="Archived days would go back into a table of the warehouse",
            runbook="redshift_archive_restore",
            response_timeout=timedelta(hours=20),
        )
        attach = AttachArchivedDay.partial(
            task_id="attach",
            trigger_rule=TriggerRule.NONE_FAILED,
            max_active_tis_per_dagrun=1,
            map_index_template="{{ slice_name }}",
        ).expand(slice=plan.output)
        load >> approve >> attach
