"""Restore an export into a database of its own, compare it with the manifest, time it, and drop the database.

A drill never writes where something was: it makes a database under a name that only drills use, and refuses the server
that was exported. What a killed drill has left is dropped by the next one.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dbops.backups.cipher import NO_KEYS, Keys
from dbops.backups.lease import Lease
from dbops.backups.store import NotFound, Store
from dbops.connections import ConnectionInfo
from dbops.errors import DbopsError, FinalError
from dbops.platform import ExportScratch, PlatformError, PostgresExports, duration_text
from dbops.postgres.export import Source, count_table, work_folder
from dbops.postgres.export_verify import StoredBytes, feed, list_lines
from dbops.postgres.exports import (
    CUSTOM,
    LEASE,
    ROOT,
    TOC,
    ExportedTable,
    ExportManifest,
    OnBytes,
    StoredFile,
    unwatched,
)
from dbops.postgres.programs import ProgramFailed, Running, find_program, run_program
from dbops.postgres.session import Session, StatementRefused
from dbops.sql import literal, quoted, statement

log = logging.getLogger(__name__)

NAME = "dbops_drill_"
STATEMENT = timedelta(hours=2)
_LINE = re.compile(r"^\d+; \d+ \d+ (.*)$")
# What only a superuser makes, or what would connect the copy with others; no row depends on it.
_LEFT_OUT = ("EVENT TRIGGER ", "PUBLICATION ", "SUBSCRIPTION ", "SECURITY LABEL ", "COMMENT - EXTENSION ")
_MOST = 5


class ProductionTarget(FinalError):
    """The scratch server is the one that was exported."""


class DrillFailed(FinalError):
    """A restored export is not what its manifest says, or took longer than promised."""


@dataclass(frozen=True)
class ExportDrill:
    """What a drill found. Seconds are of fetching and restoring, then of comparing."""

    manifest: ExportManifest
    started_at: datetime
    finished_at: datetime
    restore_seconds: float
    compare_seconds: float
    rto: timedelta
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    """What was left out on purpose."""

    @property
    def seconds(self) -> float:
        return self.restore_seconds + self.compare_seconds

    @property
    def in_time(self) -> bool:
        return self.seconds <= self.rto.total_seconds()

    @property
    def problems(self) -> tuple[str, ...]:
        late = f"took {self.seconds:.1f} s, the RTO is {duration_text(self.rto)}"
        return self.differences if self.in_time else (*self.differences, late)

    @property
    def ok(self) -> bool:
        return not self.problems


def scratch_of(settings: PostgresExports) -> ExportScratch:
    """:raises PlatformError: the platform has no place for drills."""
    if settings.scratch is None:
        raise PlatformError("the platform file has no `postgres.exports.scratch`: name a server for drills there")
    return settings.scratch


def run_export_drill(
    store: Store,
    manifest: ExportManifest,
    settings: PostgresExports,
    info: ConnectionInfo,
    *,
    rto: timedelta,
    holder: str,
    keys: Keys = NO_KEYS,
    on_read: OnBytes = unwatched,
    on_restored: Callable[[str], object] = lambda database: None,
) -> ExportDrill:
    """Restore, compare counts and checksums per table, drop the database.

    :param info: of `scratch.connection`.
    :param holder: who drills; one drill of an instance at a time.
    :param on_restored: called with the database's name before it is compared.
    :raises ProductionTarget: the scratch server is the one that was exported, and may not be.
    :raises LeaseHeld: another drill of the instance runs.
    :raises PostgresUnreachable, StoreUnavailable, DiskFull, ProgramMissing: nothing is known then.
    """
    what = f"drill of export {manifest.id} of {manifest.instance}/{manifest.export}"
    scratch = scratch_of(settings)
    keys.find(manifest.encryption, what)
    started, began = datetime.now(UTC), time.monotonic()
    with Session(info, lock_timeout=STATEMENT, statement_timeout=STATEMENT) as session:
        _refuse_production(session, manifest, scratch, what)
        program = find_program("pg_restore", manifest.program_major, settings.programs, f"{what}: the export")
        lease = Lease.acquire(store, f"{ROOT}{manifest.instance}/_drill_lease.json", holder, LEASE)
        with lease.kept(), _database(session, store, manifest) as name:
            target = replace(info, schema=name)
            work = _Restore(what, store, manifest, settings, session, target, keys, on_read)
            differences = work.run(program.path)
            restored = time.monotonic()
            on_restored(name)
            differences += list(_compare(manifest, target))
            compared = time.monotonic()
    return ExportDrill(
        manifest,
        started,
        datetime.now(UTC),
        restored - began,
        compared - restored,
        rto,
        tuple(differences),
        tuple(work.left_out),
    )


def _refuse_production(session: Session, manifest: ExportManifest, scratch: ExportScratch, what: str) -> None:
    ((system,),) = session.rows(statement("postgres/system_identifier"))
    if str(system) == manifest.system and not scratch.on_the_instance:
        raise ProductionTarget(
            f"{what}: {session.where} is the server that was exported, or a copy of it made by RDS (its system "
            f"identifier is {system}); name another server in `postgres.exports.scratch`"
        )
    if session.version < manifest.server_major:
        raise FinalError(
            f"{what}: {session.where} is PostgreSQL {session.version}, older than the {manifest.server_major} that was "
            "exported; use a server for drills that is as new"
        )


# --- the database -------------------------------------------------------------------------------------------


@contextmanager
def _database(session: Session, store: Store, manifest: ExportManifest) -> Iterator[str]:
    """A new database, dropped afterwards; those that killed drills of the same instance have left go first."""
    family = hashlib.sha256(f"{store.url}\0{manifest.instance}".encode()).hexdigest()[:8]
    prefix = f"{NAME}{family}_"
    for (left,) in session.rows(statement("postgres/drill_databases"), prefix):
        session.run(f"drop database if exists {quoted(left)} with (force)")
        log.info("%s: left behind by a drill that was killed; dropped", left)
    name = f"{prefix}{secrets.token_hex(3)}"
    make = f"create database {quoted(name)} template template0 encoding {literal(manifest.encoding)}"
    try:
        session.run(f"{make} lc_collate {literal(manifest.collation)} lc_ctype {literal(manifest.ctype)}")
    except StatementRefused:  # this server does not know the locale: rows are the same in any
        session.run(f"{make} lc_collate 'C' lc_ctype 'C'")
    try:
        yield name
    finally:
        # What ended the block is worth more than this, and the next drill drops what is left.
        with suppress(DbopsError):
            session.run(f"drop database if exists {quoted(name)} with (force)")


# --- restoring ----------------------------------------------------------------------------------------------


class _Restore:
    """pg_restore into the new database."""

    def __init__(
        self,
        what: str,
        store: Store,
        manifest: ExportManifest,
        settings: PostgresExports,
        session: Session,
        target: ConnectionInfo,
        keys: Keys,
        on_read: OnBytes,
    ) -> None:
        self._what, self._store, self._manifest, self._settings = what, store, manifest, settings
        self._session, self._target, self._on_read = session, target, on_read
        self._key = keys.find(manifest.encryption, what)
        self.left_out: list[str] = []

    def run(self, program: Path) -> list[str]:
        """What went wrong, of what the export is to blame for."""
        with work_folder(self._settings, self._what) as folder:
            try:
                return self._run(program, folder)
            except NotFound as error:
                return [f"an object is missing: {error}"]
            except ProgramFailed as error:
                return [str(error)]

    def _run(self, program: Path, folder: Path) -> list[str]:
        manifest = self._manifest
        items = {item.name: item for item in manifest.objects}
        first = self._open(items[CUSTOM if manifest.format == "custom" else TOC])
        wanted = folder / "wanted.list"
        wanted.write_text("\n".join(self._choose(list_lines(manifest, first.blocks, self._settings))) + "\n")
        arguments = [
            f"--dbname={self._target.schema}",
            f"--use-list={wanted}",
            "--no-owner",
            "--no-privileges",
            "--no-password",
        ]
        if manifest.format == "custom":
            source = self._open(items[CUSTOM])
            with run_program(program, arguments, self._target, stdin=subprocess.PIPE) as running:
                feed(running, source.blocks)
                found = self._said(running)
            problem = source.problem()
            return [problem, *found] if problem else found
        place, problems = folder / "export", []
        place.mkdir()
        for item in manifest.objects:
            source = self._open(item)
            with (place / item.name).open("wb") as file:
                file.writelines(source.blocks)
            if problem := source.problem():
                problems.append(problem)
        arguments += ["--format=directory", f"--jobs={manifest.jobs}", str(place)]
        with run_program(program, arguments, self._target) as running:
            return problems + self._said(running)

    def _open(self, item: StoredFile) -> StoredBytes:
        return StoredBytes(self._store, self._manifest, item, self._key, self._on_read)

    def _choose(self, lines: Sequence[str]) -> Iterator[str]:
        """The entries that are restored."""
        makes = {name for (name,) in self._session.rows(statement("postgres/drill_extensions"))}
        keys = tuple(f"FK CONSTRAINT {key} " for key in self._manifest.without_rows)
        left_out = _LEFT_OUT if self._manifest.whole else (*_LEFT_OUT, "MATERIALIZED VIEW DATA ")
        for line in lines:
            found = _LINE.match(line)
            if found is None:
                continue
            entry = found[1]
            extension = re.match(r"EXTENSION - (\S+)", entry)
            if entry.startswith((*left_out, *keys)) or (extension and extension[1] not in makes):
                self.left_out.append(f"left out: {entry}")
                continue
            yield line

    def _said(self, running: Running) -> list[str]:
        """Errors of single statements, after which pg_restore goes on, or the one that ended it.

        :raises PostgresUnreachable, DiskFull, ...: the export is not to blame for it.
        """
        if not (code := running.wait()):
            return []
        said = running.said
        if "errors ignored on restore" in said:
            errors = [line for line in said.splitlines() if " error: " in line or line.startswith("Command was:")]
            return [f"pg_restore: {' '.join(errors)}"]
        failure = running.failure(self._what, code)
        if not isinstance(failure, ProgramFailed):
            raise failure
        return [str(failure)]


# --- comparing ----------------------------------------------------------------------------------------------


def _compare(manifest: ExportManifest, target: ConnectionInfo) -> Iterator[str]:
    """Where the restored tables differ from the manifest."""
    different: list[str] = []
    with Session(target, read_only=True, lock_timeout=STATEMENT, statement_timeout=STATEMENT) as session:
        session.rows(statement("postgres/export_session"))
        for table in manifest.tables:
            source = Source(table.namespace, table.name)
            try:
                found = count_table(session, source, checksum=table.checksum is not None)
            except StatementRefused as error:
                different.append(f"{table} cannot be read: {error}")
                continue
            if difference := _difference(table, found):
                different.append(difference)
    yield from different[:_MOST]
    if len(different) > _MOST:
        yield f"and {len(different) - _MOST} more tables"


def _difference(wanted: ExportedTable, found: ExportedTable) -> str | None:
    if found.rows != wanted.rows:
        return f"{wanted} has {found.rows} rows, the manifest says {wanted.rows}"
    if found.checksum != wanted.checksum:
        return f"{wanted} has the checksum {found.checksum}, the manifest says {wanted.checksum}: rows differ"
    return None
