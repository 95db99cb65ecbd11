"""Export a database, or some of its tables, to the store: by pg_dump, hashed and stored as it comes.

One session holds a snapshot for as long as it takes. pg_dump reads in that snapshot, and beside it the session counts
(and sums up) each table, so that what a restore gives can be compared with what was there. Nothing exists before the
manifest is written, last. A run that has committed already gets its export again; one that was killed leaves objects
that nobody lists and `sweep_exports` removes.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dbops.backups.cipher import NO_KEYS, Key, Keys, open_writer
from dbops.backups.lease import Lease
from dbops.backups.store import Store
from dbops.connections import ConnectionInfo
from dbops.errors import DbopsError, FinalError
from dbops.platform import PlatformError, Postgres, PostgresExport, PostgresExports, duration_text
from dbops.postgres.exports import (
    CUSTOM,
    LEASE,
    ExportedTable,
    ExportManifest,
    OnBytes,
    StoredFile,
    commit_export,
    export_of,
    export_prefix,
    lease_key,
    manifest_key,
    unwatched,
)
from dbops.postgres.programs import DiskFull, Program, Running, find_program, has_zstd, run_program
from dbops.postgres.session import RightsMissing, Session, StatementCancelled
from dbops.sql import quoted, statement

log = logging.getLogger(__name__)

BLOCK = 1 << 18
UPLOADS = 2  # at once, of an export in files: each takes three parts of memory
WORK = "dbops-export-"
_LOCKED_AT_ONCE = 500


class TablesMissing(FinalError):
    """The platform file names tables that the database does not have."""


class TablesChanged(DbopsError):
    """Tables were made or dropped in the moment between the lock and the snapshot."""


@dataclass(frozen=True, order=True)
class Source:
    """A table with rows of its own."""

    schema: str
    name: str

    @property
    def quoted(self) -> str:
        return quoted(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Chosen:
    """Tables whose rows are exported, and the others.

    :param without_rows: names of tables that will lack rows: the others, and what they are partitions of.
    """

    tables: tuple[Source, ...]
    others: tuple[Source, ...]
    without_rows: frozenset[str]


@dataclass(frozen=True)
class Snapshot:
    """What one transaction sees, and pg_dump with it."""

    id: str
    at: datetime
    server_version: str
    encoding: str
    collation: str
    ctype: str
    system: str
    chosen: Chosen
    without_rows: tuple[str, ...]


def settings_of(postgres: Postgres) -> PostgresExports:
    """:raises PlatformError: the platform exports nothing."""
    if postgres.exports is None:
        raise PlatformError("the platform file has no section `postgres.exports`: name what is exported there")
    return postgres.exports


def export(
    store: Store,
    postgres: Postgres,
    name: str,
    info: ConnectionInfo,
    *,
    run: str,
    platform_sha256: str,
    keys: Keys = NO_KEYS,
    on_stored: OnBytes = unwatched,
) -> ExportManifest:
    """Make one export that the platform file describes; its manifest.

    Memory does not depend on sizes: three parts of an upload, or six with `jobs`.

    :param info: of `exports.connection`; the database is that of the export.
    :param run: the same text in each try of one run: what it has committed already is returned.
    :param on_stored: told the size of each block of pg_dump that was taken.
    :raises ProgramMissing: pg_dump here is older than the server. Nothing was written, as with the next two.
    :raises TablesMissing: the database has no such table.
    :raises RightsMissing: the role may not read what is exported.
    :raises LeaseHeld: another run exports the same now.
    """
    settings = settings_of(postgres)
    one = settings.export(name)
    if there := export_of(store, postgres.name, name, run):
        log.info("export %s of %s: was committed already as %s", name, postgres.name, there.id)
        return there.manifest
    what = f"export {name} of {postgres.name}/{one.database}"
    key = keys.current
    session = Session(
        info,
        database=one.database,
        read_only=True,
        lock_timeout=settings.lock_timeout,
        statement_timeout=settings.timeout,
    )
    with session:
        program = find_program("pg_dump", session.version, settings.programs, f"{what}: the server")
        session.rows(statement("postgres/export_session"))
        seen = _hold_snapshot(session, one, what)
        lease = Lease.acquire(store, lease_key(postgres.name, name), run, LEASE)
        with lease.kept():
            started = datetime.now(UTC)
            id = f"{seen.at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
            prefix = export_prefix(postgres.name, name, id)
            work = _Work(what, store, prefix, key, settings, one, on_stored)
            try:
                objects, tables = work.run(session, seen, program)
                lease.renew()
                manifest = ExportManifest(
                    id=id,
                    instance=postgres.name,
                    export=name,
                    database=one.database,
                    run=run,
                    snapshot_at=seen.at,
                    started_at=started,
                    finished_at=datetime.now(UTC),
                    server_version=seen.server_version,
                    program_version=program.version,
                    format="custom" if one.jobs == 1 else "directory",
                    jobs=one.jobs,
                    whole=not one.tables,
                    system=seen.system,
                    encoding=seen.encoding,
                    collation=seen.collation,
                    ctype=seen.ctype,
                    tables=tables,
                    without_rows=list(seen.without_rows),
                    objects=objects,
                    stored_bytes=sum(item.size for item in objects),
                    platform_sha256=platform_sha256,
                    encryption=keys.encryption,
                )
                commit_export(store, manifest)
            except BaseException:
                _remove(store, prefix, manifest_key(postgres.name, name, id))
                raise
    log.info("%s: %s rows of %s tables in %s bytes", what, manifest.rows, len(tables), manifest.stored_bytes)
    return manifest


def _remove(store: Store, prefix: str, manifest: str) -> None:
    """What was stored of an export that does not come to be. What cannot be removed now is swept later."""
    with suppress(DbopsError):
        if store.head(manifest) is not None:  # it was committed, and only the answer was lost: the next try finds it
            return
        store.delete([item.key for item in store.list(prefix)])
        store.abort_uploads(prefix)


# --- the snapshot -------------------------------------------------------------------------------------------


def _hold_snapshot(session: Session, one: PostgresExport, what: str) -> Snapshot:
    """Lock all tables against changes of their definition, then take a snapshot: pg_dump finds what is counted.

    TRUNCATE and rewrites are not bound to snapshots: without the lock they could empty a table in between.
    """
    for _ in range(5):
        chosen = _choose(session, one, what)
        session.run("begin transaction isolation level repeatable read, read only")
        try:
            every = sorted({*chosen.tables, *chosen.others})
            for first in range(0, len(every), _LOCKED_AT_ONCE):
                names = ", ".join(f"only {table.quoted}" for table in every[first : first + _LOCKED_AT_ONCE])
                session.run(f"lock table {names} in access share mode")
            found = session.query(statement("postgres/export_snapshot")).dicts()[0]
            if _choose(session, one, what) == chosen:
                keys = session.query(statement("postgres/export_foreign_keys")).dicts()
                return Snapshot(
                    id=found["snapshot"],
                    at=found["at"].astimezone(UTC),
                    server_version=found["version"].split()[0],
                    encoding=found["encoding"],
                    collation=found["collation"],
                    ctype=found["ctype"],
                    chosen=chosen,
                    system=str(found["system"]),
                    without_rows=tuple(
                        f"{row['schema']} {row['name']} {row['constraint']}"
                        for row in keys
                        if f"{row['to_schema']}.{row['to_name']}" in chosen.without_rows
                    ),
                )
        except BaseException:
            with suppress(DbopsError):
                session.run("rollback")
            raise
        session.run("rollback")
    raise TablesChanged(f"{what}: tables are made and dropped without pause; export when that is over")


def _choose(session: Session, one: PostgresExport, what: str) -> Chosen:
    """:raises TablesMissing, RightsMissing: all that are missing are named."""
    rows = session.query(statement("postgres/export_tables")).dicts()
    members: dict[str, set[Source]] = {}
    for row in rows:
        found = members.setdefault(f"{row['top_schema']}.{row['top_name']}", set())
        if not row["partitioned"]:
            found.add(Source(row["schema"], row["name"]))
    if missing := [name for name in one.tables if name not in members]:
        raise TablesMissing(
            f"{what}: the database has no table {', '.join(missing)}; correct `postgres.exports` of the platform file, "
            "or find out who dropped it"
        )
    # The definition of every table is exported, and pg_dump locks them all: which needs the right to read.
    if refused := sorted({f"{row['schema']}.{row['name']}" for row in rows if not row["readable"]}):
        more = f" and {len(refused) - 10} more" if len(refused) > 10 else ""
        raise RightsMissing(
            f"{what}: role {session.info.login} may not read {', '.join(refused[:10])}{more}; "
            "include/sql/postgres/export_grants.sql says what is needed",
            "42501",
        )
    every = {source for found in members.values() for source in found}
    wanted = {source for name in one.tables for source in members[name]} if one.tables else every
    others = every - wanted
    return Chosen(
        tuple(sorted(wanted)),
        tuple(sorted(others)),
        frozenset(name for name, found in members.items() if found & others),
    )


def count_table(session: Session, table: Source, *, checksum: bool) -> ExportedTable:
    """Rows of a table, and what they sum up to, as this session sees them."""
    text = statement(f"postgres/export_{'checksum' if checksum else 'count'}")
    ((rows, total),) = session.rows(text.format(table=table.quoted))
    found = f"{int(total) % (1 << 64):016x}" if checksum else None
    return ExportedTable(namespace=table.schema, name=table.name, rows=rows, checksum=found)


# --- the work -----------------------------------------------------------------------------------------------


class _Work:
    """pg_dump, its output on the way to the store, and the counting beside it. What fails first ends all."""

    def __init__(
        self,
        what: str,
        store: Store,
        prefix: str,
        key: Key | None,
        settings: PostgresExports,
        one: PostgresExport,
        on_stored: OnBytes,
    ) -> None:
        self._what, self._store, self._prefix, self._key = what, store, prefix, key
        self._settings, self._one, self._on_stored = settings, one, on_stored
        self._over = threading.Event()

    def run(self, session: Session, seen: Snapshot, program: Program) -> tuple[list[StoredFile], list[ExportedTable]]:
        with ThreadPoolExecutor(1, thread_name_prefix="count") as pool:
            counting = pool.submit(self._count, session, seen)
            try:
                store = self._custom if self._one.jobs == 1 else self._directory
                return store(session, seen, program, counting), counting.result()
            except BaseException:
                self._over.set()
                session.cancel()
                raise

    def _count(self, session: Session, seen: Snapshot) -> list[ExportedTable]:
        found = []
        for table in seen.chosen.tables:
            if self._over.is_set():
                break
            found.append(count_table(session, table, checksum=self._one.checksums))
        return found

    def _custom(
        self, session: Session, seen: Snapshot, program: Program, counting: Future[list[ExportedTable]]
    ) -> list[StoredFile]:
        arguments = [*self._arguments(seen, program), "--format=custom"]
        with (
            open_writer(self._store, self._prefix + CUSTOM, self._key) as writer,
            self._dump(program, session.info, arguments, subprocess.PIPE) as dump,
        ):
            block = memoryview(bytearray(BLOCK))
            while size := dump.output.readinto(block):  # type: ignore[attr-defined]
                _raise_failure(counting)
                writer.write(block[:size])
                self._on_stored(size)
            dump.check(self._what)
            _raise_failure(counting)
            stored = writer.close()
        return [_entry(CUSTOM, stored.size, stored.sha256)]

    def _directory(
        self, session: Session, seen: Snapshot, program: Program, counting: Future[list[ExportedTable]]
    ) -> list[StoredFile]:
        with work_folder(self._settings, self._what) as folder:
            place = folder / "export"
            arguments = [
                *self._arguments(seen, program),
                "--format=directory",
                f"--jobs={self._one.jobs}",
                f"--file={place}",
            ]
            with self._dump(program, session.info, arguments, subprocess.DEVNULL) as dump:
                while dump.process.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        dump.process.wait(0.2)
                    _raise_failure(counting)
                dump.check(self._what)
            # The largest first, so that the last ones to go are short.
            files = sorted(place.iterdir(), key=lambda file: (-file.stat().st_size, file.name))
            with ThreadPoolExecutor(UPLOADS, thread_name_prefix="store") as pool:
                try:
                    objects = list(pool.map(self._store_file, files))
                except BaseException:
                    self._over.set()
                    pool.shutdown(cancel_futures=True)
                    raise
        return sorted(objects, key=lambda item: item.name)

    def _store_file(self, file: Path) -> StoredFile:
        with open_writer(self._store, self._prefix + file.name, self._key) as writer, file.open("rb") as source:
            while block := source.read(BLOCK):
                if self._over.is_set():
                    raise FinalError(f"{self._what}: given up")
                writer.write(block)
                self._on_stored(len(block))
            stored = writer.close()
        file.unlink()  # room for others
        return _entry(file.name, stored.size, stored.sha256)

    @contextmanager
    def _dump(self, program: Program, info: ConnectionInfo, arguments: Sequence[str], stdout: int) -> Iterator[Running]:
        limit, late = self._settings.timeout, threading.Event()

        def end() -> None:
            late.set()
            running.process.terminate()

        with run_program(program.path, arguments, info, stdout=stdout) as running:
            timer = threading.Timer(limit.total_seconds(), end)
            timer.daemon = True
            timer.start()
            try:
                yield running
            except DbopsError:
                if late.is_set():
                    raise StatementCancelled(
                        f"{self._what}: is not done after {duration_text(limit)} (`postgres.exports.timeout`): pg_dump "
                        "was ended"
                    ) from None
                raise
            finally:
                timer.cancel()

    def _arguments(self, seen: Snapshot, program: Program) -> list[str]:
        """Names are patterns for pg_dump: quoted, they stand for themselves."""
        wait = round(self._settings.lock_timeout / timedelta(milliseconds=1))
        found = [f"--snapshot={seen.id}", f"--lock-wait-timeout={wait}", "--no-password"]
        if self._one.compression is not None:
            found.append(f"--compress={self._one.compression}")
        elif has_zstd(program):
            found.append("--compress=zstd")
        if self._one.tables:
            found += ["--no-blobs", *(f"--exclude-table-data={table.quoted}" for table in seen.chosen.others)]
        return found


def _raise_failure(counting: Future[Any]) -> None:
    if counting.done() and (error := counting.exception()) is not None:
        raise error


def _entry(name: str, size: int, sha256: str | None) -> StoredFile:
    assert sha256 is not None
    return StoredFile(name=name, size=size, sha256=sha256)


# --- files in between ---------------------------------------------------------------------------------------


@contextmanager
def work_folder(settings: PostgresExports, what: str) -> Iterator[Path]:
    """An empty folder for files in between, gone afterwards; those that killed tries have left go first.

    A folder is in use for as long as somebody holds the lock on its file, which ends with the process.

    :raises DiskFull: there is no room even for that.
    """
    root = Path(settings.work_folder or tempfile.gettempdir())
    _sweep_folders(root)
    try:
        made = Path(tempfile.mkdtemp(prefix=WORK, dir=root))
        lock = os.open(made / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{what}: no room in {root}: {error.strerror}") from None
        raise FinalError(f"{what}: {root} cannot be used: {error}; see `postgres.exports.work_folder`") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _sweep_folders(root: Path) -> None:
    for folder in root.glob(f"{WORK}*"):
        try:
            lock = os.open(folder / "lock", os.O_RDWR)
        except OSError:  # it is being made, is of somebody else, or goes just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            log.info("%s: left behind by a try that was killed; removed", folder)
        except OSError:
            continue
        finally:
            os.close(lock)
