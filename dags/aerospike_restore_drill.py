"""Restores restore points for practice: each verified full right away, and the newest point of every namespace weekly.

**What happens**: the point is restored to the scratch namespace of the platform file, one after the other; counts,
fingerprints, samples, indexes and UDFs are compared with the manifest, and the seconds with the RTO; then the scratch
namespace is emptied. A cluster that is backed up is refused as its target.

**When it fails**: a restore point does not hold what it promises, or a restore takes longer than promised. Take it as
seriously as a lost backup. `include/runbooks/aerospike_drill_failed.md` goes through the causes.

**By hand**: *Trigger* drills the newest verified point of every namespace.
"""

from __future__ import annotations

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable
from dbops.adapter import DEFAULT_ARGS
from dbops.aerospike.assets import VERIFIED_FULL
from dbops.aerospike.restore_operators import DrillRestorePoint, FindDrills
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.tags import Tag

if load_platform().aerospike.scratch is not None:
    with DAG(
        dag_id="aerospike_restore_drill",
        schedule=AssetOrTimeSchedule(
            timetable=CronTriggerTimetable("0 8 * * 0", timezone="UTC"),
            assets=[VERIFIED_FULL],
        ),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.AEROSPIKE, Tag.BACKUP, Tag.RESTORE, Tag.CRITICAL],
        description="Restores restore points to the scratch namespace, compares and times it",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.CRITICAL, "aerospike_drill_failed"),
        on_success_callback=resolve_on_success,
    ):
        find = FindDrills(task_id="find_points")
        DrillRestorePoint.partial(task_id="drill", max_active_tis_per_dagrun=1).expand(point=find.output)
