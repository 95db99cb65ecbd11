"""Every new Aerospike restore point is read back and compared with its manifest, right after it was committed.

**What happens**: sizes, SHA-256, the structure of each file, record counts and digest fingerprints of all 4096
partitions are checked from the bucket alone, without a database. The outcome is kept beside the manifest and in the
ledger. Once a day whatever was missed is caught up with.

**When it fails**: a restore point is damaged and the failed task names the object. The newest whole one is in
`dbops backup list`; take a full backup now. `include/runbooks/aerospike_backup_damaged.md` has the steps.

**By hand**: *Trigger* verifies every point that was never read back.
"""

from __future__ import annotations

from airflow.sdk import DAG, AssetAny, AssetOrTimeSchedule, CronTriggerTimetable
from dbops.adapter import DEFAULT_ARGS
from dbops.aerospike.assets import VERIFIED_FULL, backup_asset
from dbops.aerospike.operators import FindUnverified, TellVerified, VerifyRestorePoint
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.tags import Tag

with DAG(
    dag_id="aerospike_backup_verify",
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("0 4 * * *", timezone="UTC"),
        assets=AssetAny(
            *(
                backup_asset(cluster.name, namespace.name)
                for cluster in load_platform().aerospike.clusters
                for namespace in cluster.namespaces
            )
        ),
    ),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
    tags=[Tag.AEROSPIKE, Tag.BACKUP, Tag.VERIFY, Tag.CRITICAL],
    description="Reads new restore points back and compares them with their manifests",
    doc_md=__doc__,
    on_failure_callback=alert_on_failure(Severity.CRITICAL, "aerospike_backup_damaged"),
    on_success_callback=resolve_on_success,
):
    find = FindUnverified(task_id="find_unverified")
    verify = VerifyRestorePoint.partial(task_id="verify", map_index_template="{{ point_name }}").expand(
        point=find.output
    )
    # Drills follow what is whole, also when something else is damaged; a teardown leaves that run failed.
    verify >> TellVerified(task_id="tell_drills", outlets=[VERIFIED_FULL]).as_teardown()
