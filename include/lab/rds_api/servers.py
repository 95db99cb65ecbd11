"""Instances as real PostgreSQL servers, each with base backups and the log from which any moment since is had again."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import subprocess
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
from dbops_lab.postgres import ADMIN, APPLICATION, Postgres, launcher, own
from dbops_lab.supervisor import Part, StartFailed, Supervisor
from psycopg2 import sql

RDSADMIN = "rdsadmin"
"""As which the service's own sessions are seen."""
SEGMENT = 24  # letters of the name of a log file


def instance_server(
    state: Path,
    name: str,
    port: int,
    passwords: Mapping[str, str],
    *,
    host: str,
    guarded: bool = False,
    binaries: Path | None = None,
    databases: Sequence[str] = (APPLICATION,),
    settings: Mapping[str, str] | None = None,
) -> Postgres:
    """The server of an instance: `state/<name>` is its data, beside which lie `<name>.archive` and `<name>.log`."""
    archive = state / f"{name}.archive"
    kept, made = shlex.quote(f"{archive}/"), shlex.quote(f"{archive}/.")
    own_settings = {
        "wal_level": "replica",
        "max_wal_senders": "4",
        "archive_mode": "on",
        "archive_command": f"test -f {kept}%f || (cp %p {made}%f && mv {made}%f {kept}%f)",
        "shared_buffers": "16MB",
        "max_connections": "100",
        "max_wal_size": "64MB",
        "min_wal_size": "4MB",
        # As RDS writes it: hourly files, each line with time, client, user and database, and every DDL statement.
        "logging_collector": "on",
        "log_directory": f"{state / name}.log",
        "log_filename": "postgresql.log.%Y-%m-%d-%H",
        "log_file_mode": "0644",
        "log_rotation_age": "60",
        "log_line_prefix": "%t:%r:%u@%d:[%p]:",
        "log_statement": "ddl",
    }
    return Postgres(
        state, port, passwords, guarded=guarded, binaries=binaries, settings=own_settings | dict(settings or {}),
        name=name, host=host, databases=databases, segment_mb=1,
    )  # fmt: skip


def folders(server: Postgres) -> tuple[Path, Path]:
    """Archive and log of a server, made if they are not there."""
    found = tuple(server.data.with_name(f"{server.data.name}.{kind}") for kind in ("archive", "log"))
    for folder in found:
        if not folder.exists():
            folder.mkdir(parents=True)
            own(folder, server.binaries)
    return found[0], found[1]


class Base:
    """A copy of a server's files, complete at `at` (a whole second). They go when nothing refers to it any more."""

    def __init__(self, folder: Path, at: datetime) -> None:
        self.folder, self.at = folder, at
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    @property
    def first(self) -> str:
        """The first file of the log that it needs."""
        label = (self.folder / "backup_label").read_text()
        return label.partition("(file ")[2][:SEGMENT]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class Server:
    """A running server, and what its past can be had from.

    :param started: ends it; the lab's own is not ended with its instance.
    """

    def __init__(self, postgres: Postgres, room: Room, ended: Callable[[], None] = lambda: None) -> None:
        self.postgres = postgres
        self.archive, self.log = folders(postgres)
        self.bases: list[Base] = []
        self.latest: datetime | None = None
        """Any moment from `earliest` until this one can be had again."""
        self._room, self._ended = room, ended
        self._lock = threading.RLock()
        self._connection: psycopg2.extensions.connection | None = None
        self._segment = ""
        self._over = threading.Event()

    @property
    def host(self) -> str:
        return self.postgres.host

    @property
    def earliest(self) -> datetime | None:
        return self.bases[0].at if self.bases else None

    # ------------------------------------------------------------------ backups

    def begin(self, pause: Callable[[], float], day: Callable[[], float], back_up: Callable[[], None]) -> None:
        """Archive from now on every `pause()` seconds, and `back_up()` now and every `day()` seconds."""
        self.keep()
        back_up()
        self.keep()
        threading.Thread(target=self._follow, args=(pause, day, back_up), daemon=True).start()

    def _follow(self, pause: Callable[[], float], day: Callable[[], float], back_up: Callable[[], None]) -> None:
        while not self._over.wait(pause()):
            try:
                self.keep()
                if (datetime.now(UTC) - self.bases[-1].at).total_seconds() > day():
                    back_up()
            except psycopg2.Error:
                self._disconnect()  # it is down: what the archive has is what there is
            except Exception:
                traceback.print_exc()

    def copy(self) -> Base:
        """A base backup, which holds the log that it needs to be complete."""
        folder = self._room.new_folder()
        words = ["-D", str(folder), "-X", "fetch", "-c", "fast", "--no-sync", "--no-manifest"]
        self._run("pg_basebackup", words)
        return Base(folder, datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1))

    def keep(self) -> datetime:
        """Bring all that is committed by now into the archive; until when that is.

        A recovery ends at the first commit after its target, so a commit of our own follows that moment. It has to
        write something: the commit of a transaction that wrote nothing is not waited for.
        """
        with self._lock:
            connection = self._connected()
            with connection.cursor() as cursor:
                cursor.execute("select clock_timestamp()")
                ((at,),) = cursor.fetchall()
                cursor.execute("select pg_logical_emit_message(true, 'lab', '')")
                cursor.execute("select pg_walfile_name(pg_current_wal_flush_lsn())")
                ((segment,),) = cursor.fetchall()
            self._keep_until(segment)
            self.latest = at.astimezone(UTC).replace(microsecond=0)
            return self.latest

    def _keep_until(self, segment: str) -> None:
        """Copy the files of the log up to this one, of which only the beginning is written."""
        log = self.postgres.data / "pg_wal"
        first = self._segment or segment
        for path in sorted(path for path in log.iterdir() if len(path.name) == SEGMENT):
            if first <= path.name < segment and not (self.archive / path.name).exists():
                self._put(path, self.archive / path.name)
        self._put(log / segment, self.archive / f"{segment}.partial")
        for path in self.archive.glob("*.partial"):
            if path.name < segment:
                path.unlink()
        self._segment = segment

    @staticmethod
    def _put(source: Path, target: Path) -> None:
        draft = target.with_name(f".lab.{target.name}")
        shutil.copyfile(source, draft)
        draft.chmod(0o644)
        draft.replace(target)

    def expire(self, before: datetime) -> None:
        """Forget what is needed for moments before this one only."""
        while len(self.bases) > 1 and self.bases[1].at <= before:
            self.bases.pop(0)
            first = self.bases[0].first
            for path in self.archive.iterdir():
                if len(path.name) == SEGMENT and path.name < first:
                    path.unlink()

    # ------------------------------------------------------------------ its end

    def end(self) -> None:
        """End it and remove its files; the lab's own server goes on, but is not followed any more."""
        self._over.set()
        with self._lock:
            self._disconnect()
        self.bases.clear()
        self._ended()

    # ------------------------------------------------------------------ the server

    def _connected(self) -> psycopg2.extensions.connection:
        if self._connection is None:
            made = self.postgres.connect(ADMIN)
            made.autocommit = True
            with made.cursor() as cursor:
                cursor.execute("set application_name = %s", [RDSADMIN])
                cursor.execute("set synchronous_commit = on")
                cursor.execute("set timezone = 'UTC'")
            self._connection = made
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None

    def set_password(self, role: str, password: str) -> None:
        with self._lock, self._connected().cursor() as cursor:
            cursor.execute("set log_statement = 'none'")  # which would show the password
            cursor.execute(sql.SQL("alter role {} password %s").format(sql.Identifier(role)), [password])

    def _run(self, program: str, words: Sequence[str]) -> None:
        server = self.postgres
        command = [*launcher(server.binaries), str(server.binaries / program), "-h", server.host, "-p",
                   str(server.port), "-U", ADMIN, *words]  # fmt: skip
        secret = os.environ | {"PGPASSWORD": server.passwords[ADMIN]}
        done = subprocess.run(command, env=secret, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} of {server.data.name} failed: {done.stderr.strip()[-500:]}")


@dataclass
class Room:
    """Where servers are started. Each has a loopback address of its own, and all the same port.

    A server ends with the thread that starts it, so one thread starts them all.
    """

    folder: Path
    port: int = 0
    _starter: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "lab-servers"))
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _addresses: Iterator[int] = field(default_factory=lambda: itertools.count(250))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._supervisor = Supervisor(self.folder / "servers", guarded=True)
        self._supervisor.stop()  # those of one that was killed
        for path in (self.folder / "servers", self.folder / "bases"):
            shutil.rmtree(path, ignore_errors=True)
        self._supervisor = Supervisor(self.folder / "servers", guarded=True)

    def new_folder(self) -> Path:
        """For a base backup: it does not exist yet, and PostgreSQL may make it."""
        bases = self.folder / "bases"
        if not bases.exists():
            bases.mkdir(mode=0o711)
        folder = bases / str(next(self._numbers))
        return folder

    def new_address(self) -> str:
        """From 127.0.1.1 on, never one that was used: who still knows the address of what is gone meets no other.

        Those below are for servers that others start.
        """
        number = next(self._addresses)
        return f"127.0.{number // 250}.{number % 250 + 1}"

    def restore(
        self, base: Base, like: Postgres, name: str, *, archive: Path | None = None, until: datetime | None = None
    ) -> Server:
        """A second server with the data of a base backup, or of the moment `until` after it.

        :raises StartFailed: it does not come up.
        """
        settings = {}
        if archive is not None and until is not None:
            kept = shlex.quote(f"{archive}/")
            settings = {
                "restore_command": f"cp {kept}%f %p 2>/dev/null || cp {kept}%f.partial %p 2>/dev/null",
                "recovery_target_time": until.astimezone(UTC).isoformat(sep=" "),
                "recovery_target_action": "promote",
            }
        number = next(self._numbers)
        server = instance_server(
            self.folder / "servers", f"{name}.{number}", self.port, like.passwords, host=self.new_address(),
            guarded=True, binaries=like.binaries, databases=like.databases, settings=settings,
        )  # fmt: skip
        made = [*launcher(like.binaries), "cp", "-r", "--preserve=mode", str(base.folder), str(server.data)]
        subprocess.run(made, check=True, capture_output=True)
        if settings:
            (server.data / "recovery.signal").touch()
        restored = Server(server, self, lambda: self._remove(server))
        part = _recovered(server)
        try:
            self._starter.submit(self._supervisor.start, part).result()
            self._supervisor.wait([part], seconds=60)
        except StartFailed as problem:
            said = "".join(path.read_text(errors="replace")[-1500:] for path in sorted(restored.log.iterdir()))
            restored.end()
            raise StartFailed(f"{problem} | {said}") from None
        return restored

    def _remove(self, server: Postgres) -> None:
        self._supervisor.stop([server.part.name])
        archive, log = folders(server)
        for path in (server.data, archive, log):
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        self._supervisor.stop()
        self._starter.shutdown(wait=False)


def _recovered(server: Postgres) -> Part:
    """Ready when it takes writes."""

    def ready() -> bool:
        try:
            with contextlib.closing(server.connect(ADMIN)) as connection, connection.cursor() as cursor:
                cursor.execute("select pg_is_in_recovery()")
                return cursor.fetchone() == (False,)
        except psycopg2.OperationalError:
            return False

    part = server.part
    return Part(part.name, part.command, ready, stop_signal=part.stop_signal)
