"""PostgreSQL's own programs: the version that fits, run with a password that no other process sees, errors in words."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, DbopsError, FinalError, RetryableError
from dbops.postgres.session import LockHeld, PostgresUnreachable, RightsMissing, StatementCancelled
from dbops.redact import redact

DEBIAN = Path("/usr/lib/postgresql")
STOP_SECONDS = 5.0
MOST_LINES = 40  # of a program's errors: the last ones
PIPE_BYTES = 1 << 20

_LOST = (
    "connection to server",
    "could not connect",
    "could not receive data from server",
    "lost synchronization",
    "server closed the connection",
    "ssl connection has been closed",
    "terminating connection",
    "the database system is",
)


class ProgramMissing(ConfigurationError):
    """The program is not on this machine, or only in versions that are too old."""


class ProgramFailed(FinalError):
    """A program of PostgreSQL ended with an error that trying again does not mend."""


class ProgramKilled(RetryableError):
    """Something ended a program from outside: a person, or the system for want of memory."""


class DiskFull(FinalError):
    """There is no room left where files are kept in between."""


@dataclass(frozen=True)
class Program:
    """A program as it was found. `version` is the program's own: `17.5`."""

    path: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def find_program(name: str, at_least: int, folder: str | None, reader_of: str) -> Program:
    """The oldest version that is not older than `at_least`: what it writes is understood by the most others.

    :param folder: where to look; None: where Debian and RDS images have them, and on the PATH.
    :param reader_of: for the error: what is of that version, `the server` or `the export`.
    :raises ProgramMissing: there is none.
    """
    found = list(_programs(name, folder))
    fitting = [program for program in found if program.major >= at_least]
    if fitting:
        return min(fitting, key=lambda program: program.major)
    there = ", ".join(f"{program.version} ({program.path})" for program in found) or "none"
    raise ProgramMissing(
        f"{reader_of} is of PostgreSQL {at_least} and needs {name} {at_least} or newer; found here: {there}. Install "
        f"postgresql-client-{at_least} on the workers, or name the folder of a newer one in `postgres.exports.programs`"
    )


def has_zstd(dump: Program) -> bool:
    """Whether this pg_dump can compress with zstd: from 16 on, when it was built so.

    It says so before it connects, which here is to nobody.
    """
    if dump.major < 16:
        return False
    arguments = [str(dump.path), "--compress=zstd", "--no-password", "--host=/dev/null"]
    said = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=30).stderr
    return "compress" not in said


def _programs(name: str, folder: str | None) -> Iterator[Program]:
    if folder is not None:
        places = [Path(folder)]
    else:
        places = sorted(DEBIAN.glob("*/bin"))
        if on_path := shutil.which(name):
            places.append(Path(on_path).resolve().parent)
    for path in dict.fromkeys(place / name for place in places):
        if not os.access(path, os.X_OK):
            continue
        try:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
        except (OSError, subprocess.TimeoutExpired):
            continue
        if version := re.search(r"\(PostgreSQL\) (\d+[\w.]*)", said):
            yield Program(path, re.sub(r"[^\d.].*", "", version[1]))


class Running:
    """A program while it runs. Its errors are collected as they come, so that it never waits for somebody to read."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, secrets: Sequence[str | None]) -> None:
        self.process, self._name, self._secrets = process, name, secrets
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._reader = threading.Thread(target=self._collect, name=f"{name}-errors", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def input(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def said(self) -> str:
        """Its errors so far, without secrets."""
        return redact("\n".join(self._lines), self._secrets).strip()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.append(line.decode(errors="replace").rstrip())

    def wait(self) -> int:
        """Its exit code, when it has ended and all that it said was read."""
        code = self.process.wait()
        self._reader.join()
        return code

    def check(self, what: str) -> None:
        """Wait for its end.

        :param what: what is attempted on what, for the error.
        """
        if code := self.wait():
            raise self.failure(what, code)

    def failure(self, what: str, code: int) -> DbopsError:
        """The error that its exit code and words stand for."""
        said = self.said
        text = f"{what}: {self._name} ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
        text += f": {said}" if said else ", and said nothing"
        low = said.lower()
        if "no space left on device" in low or "disk quota exceeded" in low:
            return DiskFull(
                f"{text}; make room where the workers keep files in between (`postgres.exports.work_folder`)"
            )
        if "permission denied for" in low or "row-level security policy" in low:
            return RightsMissing(f"{text}; include/sql/postgres/export_grants.sql says what is needed", "42501")
        if "authentication failed" in low or ("database" in low and "does not exist" in low and "connection" in low):
            return ConfigurationError(f"{text}; check login and database of the connection")
        if "canceling statement due to lock timeout" in low or "could not obtain lock" in low:
            return LockHeld(f"{text}; see who holds it with `dbops postgres report blocked`")
        if "canceling statement" in low:
            return StatementCancelled(text)
        if any(words in low for words in _LOST):
            return PostgresUnreachable(text)
        if code < 0:
            return ProgramKilled(text)
        return ProgramFailed(text)


@contextmanager
def run_program(
    program: Path,
    arguments: Sequence[str],
    info: ConnectionInfo | None,
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> Iterator[Running]:
    """Run a program on a database; it is ended when the block ends before it has.

    Address and login are given in its environment, the password in a PGPASSFILE that exists in memory only: nothing of
    it is in the arguments, in the environment or on a disk, whatever is killed.

    :param info: None: it talks to no server.
    """
    # What the worker's own environment says about PostgreSQL is not meant for this.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= {"LC_ALL": "C", "TZ": "UTC"}
    handle, secrets = None, []
    if info is not None:
        environment |= _address(info)
        if info.password:
            secrets.append(info.password)
            handle = _password_file(info)
            environment["PGPASSFILE"] = f"/proc/self/fd/{handle}"
    try:
        process = subprocess.Popen(
            [program, *arguments],
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            pass_fds=() if handle is None else (handle,),
            pipesize=PIPE_BYTES,
        )
    except OSError as error:
        raise ConfigurationError(f"{program} cannot be started: {error}") from None
    finally:
        if handle is not None:
            os.close(handle)
    running = Running(process, program.name, secrets)
    try:
        yield running
    finally:
        _end(process)
        running.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                _close(stream)


def _address(info: ConnectionInfo) -> dict[str, str]:
    found: dict[str, Any] = {
        "PGHOST": info.host or "localhost",
        "PGPORT": info.port or 5432,
        "PGUSER": info.login or "",
        "PGDATABASE": info.schema or info.login or "",
        "PGAPPNAME": "dbops",
        "PGCONNECT_TIMEOUT": 10,
    }
    found |= {f"PG{name.upper()}": value for name, value in info.extra.items() if name.startswith("ssl")}
    return {name: str(value) for name, value in found.items() if value != ""}


def _password_file(info: ConnectionInfo) -> int:
    """A file in memory, of mode 0600 as libpq demands, with one line for any address."""
    handle = os.memfd_create("pgpass")
    os.fchmod(handle, 0o600)
    password = (info.password or "").replace("\\", "\\\\").replace(":", "\\:")
    os.write(handle, f"*:*:*:*:{password}\n".encode())
    return handle


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()  # pg_dump tells the server to stop, and its own workers
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _close(stream: IO[bytes]) -> None:
    with suppress(OSError):  # what was left in its buffer has no reader any more
        stream.close()
