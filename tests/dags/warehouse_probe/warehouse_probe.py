"""Operators of the warehouse that stand in the DAGs of others: a snapshot before risky work, the review of rights."""

from __future__ import annotations

from airflow.sdk import DAG
from dbops.adapter import DEFAULT_ARGS
from dbops.redshift.access_operators import ReviewAccess
from dbops.redshift.snapshot_operators import TakeSnapshot

with DAG(dag_id="risky_work", schedule=None, default_args=DEFAULT_ARGS):
    TakeSnapshot(task_id="snapshot", reason="before a deep copy of {{ dag.dag_id }}")

with DAG(dag_id="review", schedule=None, default_args=DEFAULT_ARGS):
    ReviewAccess(task_id="access")
