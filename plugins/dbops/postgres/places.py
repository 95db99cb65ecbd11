"""What lies outside of the server's SQL: the size of its volume, and its log."""

from __future__ import annotations

from collections.abc import Callable

from dbops.connections import ConnectionInfo
from dbops.errors import FinalError
from dbops.platform import Postgres
from dbops.postgres.audit import log_format
from dbops.postgres.log_sources import LogSource, ServerLog
from dbops.postgres.server_log import CsvFormat, Format
from dbops.postgres.session import Session

FindConnection = Callable[[str], ConnectionInfo]
"""The connection of an id."""


def storage_gb(postgres: Postgres, find: FindConnection) -> float | None:
    """Size of the instance's volume: as configured, else as RDS says now (it may grow by itself); None: unknown.

    :raises DbopsError: RDS cannot be asked.
    """
    if postgres.storage_gb is not None or postgres.rds is None:
        return postgres.storage_gb
    from dbops.postgres.rds import describe, rds_client

    found = describe(rds_client(find(postgres.aws_connection), postgres.region), postgres.name).storage_gb
    if not found:
        raise FinalError(f"describe instance {postgres.name}: it says no AllocatedStorage; set postgres.storage_gb")
    return float(found)


def open_log(postgres: Postgres, session: Session, find: FindConnection) -> tuple[LogSource, Format]:
    """The log of the server that a session is with, as `audit.log` of the platform file says.

    :raises LogUnreadable: it is in no form that is understood.
    """
    form = log_format(session)
    is_csv = isinstance(form, CsvFormat)
    if postgres.audit.log == "rds":
        from dbops.postgres.rds import rds_client
        from dbops.postgres.rds_log import RdsLog

        client = rds_client(find(postgres.aws_connection), postgres.region)
        return RdsLog(client, postgres.name, is_csv=is_csv), form
    return ServerLog(session, is_csv=is_csv), form
