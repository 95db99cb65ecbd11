"""What every operator needs of Airflow: connections, the platform's stores and ledger, progress in the task log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook, ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowNotFoundException

from dbops.connections import ConnectionInfo, ConnectionMissing
from dbops.platform import Platform

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from dbops.aerospike.backup import Progress
    from dbops.backups.cipher import Keys
    from dbops.backups.store import Store

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0

# What cannot succeed by itself fails at once; all else is tried again.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception="dbops.errors.FinalError",
            action=RetryAction.FAIL,
            reason="trying again cannot help: the error says what to change",
        ),
        RetryRule(
            exception=[
                "airflow.providers.standard.exceptions.HITLRejectException",
                "airflow.providers.standard.exceptions.HITLTimeoutError",
            ],
            action=RetryAction.FAIL,
            reason="a person has refused, or nobody has answered in time: it is not asked again",
        ),
    ]
)
DEFAULT_ARGS = {
    "owner": "database-operations",
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": RETRY_POLICY,
}


def connection(conn_id: str) -> ConnectionInfo:
    """An Airflow connection, from wherever Airflow keeps it.

    :raises ConnectionMissing: Airflow has none of that id.
    """
    try:
        found = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConnectionMissing(
            f"connection {conn_id} is not defined in Airflow; add it under Admin > Connections or as "
            f"AIRFLOW_CONN_{conn_id.upper()}"
        ) from None
    return ConnectionInfo(
        conn_id=conn_id,
        conn_type=found.conn_type or "",
        host=found.host,
        port=found.port,
        login=found.login,
        password=found.password,
        schema=found.schema,
        extra=found.extra_dejson,
    )


def open_platform_store(platform: Platform) -> Store:
    """The bucket of the platform's backups."""
    from dbops.backups.store import open_store

    return open_store(platform.storage, connection(platform.storage.connection))


def open_keys(platform: Platform) -> Keys:
    """The keys of the platform's backups; none when it does not encrypt them."""
    from dbops.backups.keys import load_keys

    return load_keys(platform.storage, connection)


def open_ledger(platform: Platform) -> Engine:
    """The ledger's engine; connects when it is first used."""
    from dbops.ledger import connect

    return connect(connection(platform.ledger_connection))


def log_progress(what: str, seconds: float = PROGRESS_SECONDS) -> Callable[[Progress], None]:
    """A progress callback that writes a line every few seconds: done, total, rate, time left."""
    started = last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < seconds:
            return
        last = now
        rate = progress.records / (now - started)
        left = max(0, progress.total - progress.records)
        log.info(
            "%s: %s of about %s records, %.1f MB stored, %s records/s, about %.0f s left",
            what,
            f"{progress.records:,}",
            f"{progress.total:,}",
            progress.stored_bytes / 1e6,
            f"{rate:,.0f}",
            left / rate if rate else 0,
        )

    return show
