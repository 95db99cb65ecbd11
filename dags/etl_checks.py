"""Every hour: did the hour's rows arrive in the warehouse, whole and once, and do they make sense?

**What happens**: for each pipeline of `etl` in the platform file, `check` judges the hour that ended: its Glue run, its
files on S3, their loads by COPY, whether files, loads and table agree on the number of rows, whether that number is as
usual, and the values of its columns. It also looks at the EventBridge rule, the age of the newest row and the success
of seven days. Each result is a row in the ledger. `report` has one incident per pipeline and kind of problem, which
lasts until every hour of it is well: hours that are not are looked at again by every run, so that a repair is seen
within the hour. After a pause the oldest hours that nobody has judged come first. `include/runbooks/etl_late.md`,
`etl_failed.md`, `etl_load_errors.md` and `etl_data.md` say what to do.

**When it fails**: a check could not look, which says nothing about the data; the others were done. Clear the failed
tasks once AWS and the warehouse answer: `include/runbooks/etl_checks_failed.md`.

**By hand**: *Trigger*; the form chooses pipelines, or one hour, for a look at a repair. **Backfill**: each run judges
the hour of its data interval, and nothing that is about now:
`airflow backfill create --dag-id etl_checks --from-date 2026-11-01T00:00 --to-date 2026-11-01T23:59` is that day.
Without Airflow: `dbops etl check`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, TriggerRule
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.etl.operators import CheckPipeline, PlanEtlChecks, ReportEtl
from dbops.platform import Severity, load_platform
from dbops.tags import Tag

etl = load_platform().etl

if etl is not None:
    pipelines = [pipeline.name for pipeline in etl.pipelines]
    with DAG(
        dag_id="etl_checks",
        # Minutes after the hour: the hour that the interval begins in is over and due when the run starts.
        schedule=CronDataIntervalTimetable(etl.schedule, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.REDSHIFT, Tag.ETL, Tag.WARNING],
        description="Judges every hour of the pipelines that load the warehouse",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "etl_checks_failed"),
        on_success_callback=resolve_on_success,
        params={
            "pipelines": Param(
                pipelines,
                type="array",
                items={"type": "string", "enum": pipelines},
                minItems=1,
                uniqueItems=True,
                title="Pipelines",
                description="Which are judged.",
                examples=pipelines,
            ),
            "hour": Param(
                None,
                type=["null", "string"],
                format="date-time",
                title="Hour",
                description="Only this hour, and nothing that is about now. Empty: the newest hour that is due, those "
                "that no run has judged, those that are not well, and how the pipelines are now.",
            ),
        },
    ):
        plan = PlanEtlChecks(task_id="plan")
        check = CheckPipeline.partial(
            task_id="check", map_index_template="{{ unit_name }}", execution_timeout=timedelta(minutes=50)
        ).expand(unit=plan.output)
        report = ReportEtl(task_id="report", trigger_rule=TriggerRule.ALL_DONE)
        check >> report
