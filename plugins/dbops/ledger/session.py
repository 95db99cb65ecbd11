"""How the ledger's database is reached, and how its tables come to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, func, inspect, select, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from dbops.connections import ConnectionInfo
from dbops.errors import FinalError, RetryableError
from dbops.ledger.models import Base, Incident

LIMITS = text("SELECT set_config('lock_timeout', '10s', true), set_config('statement_timeout', '20s', true)")

MIGRATION_LOCK = 0x6462_6F70_7301
"""Key of the advisory lock that lets one migration run at a time: "dbops" and a one."""


class LedgerUnavailable(RetryableError):
    """The ledger's database does not answer."""


class LedgerNotReady(FinalError):
    """The ledger's tables are missing, older or newer than this code."""


def connect(info: ConnectionInfo) -> Engine:
    """An engine for the ledger; nothing is opened until it is used, and nothing is kept open after.

    `sslmode` and `sslrootcert` are taken from the connection's extra.
    """
    url = URL.create(
        "postgresql+psycopg2",
        username=info.login,
        password=info.password,
        host=info.host,
        port=info.port or 5432,
        database=info.schema or "dbops_ledger",
        query={name: str(info.extra[name]) for name in ("sslmode", "sslrootcert") if name in info.extra},
    )
    settings = {"connect_timeout": 5, "tcp_user_timeout": 20_000, "application_name": "dbops ledger"}
    return create_engine(url, poolclass=NullPool, connect_args=settings, hide_parameters=True)


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A session whose work is committed when the block ends well; it waits for nobody longer than 20 s.

    :raises LedgerUnavailable: no connection, or a lock or statement took too long.
    :raises LedgerNotReady: a table or column is missing.
    """
    try:
        with Session(engine) as session, session.begin():
            session.execute(LIMITS)
            yield session
    except OperationalError as error:
        raise LedgerUnavailable(
            f"{_where(engine)}: {_first_line(error)}; check that it runs and the connection dbops_ledger"
        ) from error
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) in {"42P01", "42703"}:
            raise LedgerNotReady(f"{_where(engine)}: {_first_line(error)}; run `dbops ledger migrate`") from error
        raise


def migrate(engine: Engine) -> str:
    """Bring the tables to what this code needs and return the revision; safe to repeat, also at once.

    :raises LedgerNotReady: the database is of a newer version of this package.
    """
    try:
        with engine.begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return str(_revision(connection))
    except CommandError as error:
        raise LedgerNotReady(
            f"{_where(engine)}: {error}; a newer version of this package migrated it: update this one"
        ) from error
    except OperationalError as error:
        raise LedgerUnavailable(f"{_where(engine)}: {_first_line(error)}; check the connection") from error


@dataclass(frozen=True)
class LedgerStatus:
    """Where the ledger lies, whether its tables fit this code, and how much they hold."""

    database: str
    revision: str | None
    head: str
    rows: dict[str, int]
    open_incidents: int

    @property
    def ready(self) -> bool:
        return self.revision == self.head


def status(engine: Engine) -> LedgerStatus:
    """Look, change nothing.

    :raises LedgerUnavailable: the database does not answer.
    """
    with transaction(engine) as session:
        connection = session.connection()
        present = set(inspect(connection).get_table_names())
        tables = [table for table in Base.metadata.sorted_tables if table.name in present]
        rows = {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}
        unresolved = select(func.count()).select_from(Incident).where(Incident.resolved_at.is_(None))
        return LedgerStatus(
            database=_where(engine),
            revision=_revision(connection),
            head=str(ScriptDirectory.from_config(_config()).get_current_head()),
            rows=rows,
            open_incidents=(session.scalar(unresolved) or 0) if "incident" in present else 0,
        )


def _config() -> Config:
    config = Config()
    migrations = Path(str(resources.files("dbops.ledger"))) / "migrations"
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _where(engine: Engine) -> str:
    return f"ledger {engine.url.host}:{engine.url.port}/{engine.url.database}"


def _first_line(error: OperationalError | ProgrammingError) -> str:
    return str(error.orig).strip().splitlines()[0]
