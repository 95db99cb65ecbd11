"""Weekly practice: the newest verified export of each kind is restored on a scratch server, compared and timed.

**What happens**: pg_restore brings the export into a new database of the scratch server; rows and checksum of every
table are compared with the manifest, where they were counted in the very snapshot that was exported; the seconds are
put beside the RTO; the database is dropped. The server that was exported is refused. What a killed drill left is
dropped by the next.

**When it fails**: an export does not hold what it promises, or it takes longer than promised. Take it as seriously as a
lost backup. `include/runbooks/postgres_drill_failed.md` goes through the causes.

**By hand**: *Trigger*, with the exports that are wanted.
"""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable, Param
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.postgres.export_operators import DrillExport
from dbops.tags import Tag

postgres = load_platform().postgres

if postgres is not None and postgres.exports is not None and postgres.exports.scratch is not None:
    names = [one.name for one in postgres.exports.sets]
    with DAG(
        dag_id="postgres_backup_drill",
        schedule=CronTriggerTimetable(postgres.schedules.drill, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.POSTGRES, Tag.BACKUP, Tag.RESTORE, Tag.CRITICAL],
        description="Restores exports of PostgreSQL to a scratch database, compares and times it",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.CRITICAL, "postgres_drill_failed"),
        on_success_callback=resolve_on_success,
        params={
            "exports": Param(
                names,
                type="array",
                items={"type": "string", "enum": names},
                minItems=1,
                uniqueItems=True,
                title="Exports",
                description="The newest verified one of each is restored.",
                examples=names,
            ),
        },
    ):
        DrillExport.partial(task_id="drill", max_active_tis_per_dagrun=1).expand(export=names)
