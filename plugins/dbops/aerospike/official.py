"""Aerospike's own programs as engines: `asbackup` and `absctl` read a slice, `asrestore` writes one.

A program writes one `.asb` text to its stdout, or reads one from its stdin. What it writes goes through the same
strict scan as everything else, and the counters that it prints must be those that were counted: its exit code alone
says little (asrestore exits 0 when records were refused for their generation). A program runs in a process group of
its own, which is killed when anything here ends early; it gets its password by a pipe or an environment variable,
never in its arguments.

Facts are of the sources of asbackup and asrestore 3.12.0 to 4.5.8, absctl 1.1.0 and backup-go 0.11. `absctl` has
never been run by the tests of this package: they play its conversation from its source.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

from dbops.aerospike import asb
from dbops.aerospike.cluster import Access
from dbops.aerospike.drain import Tally
from dbops.aerospike.scan import scan_records
from dbops.errors import ConfigurationError, RetryableError
from dbops.redact import redact

log = logging.getLogger(__name__)

Name = Literal["asbackup", "absctl", "asrestore"]
Policy = Literal["missing", "newer", "update", "replace"]

SILENCE_SECONDS = 900.0  # a filtered read that finds nothing says nothing; longer than that is no reading
_VERSION_SECONDS = 30.0
_TICK_SECONDS = 1.0
_LOGGED_LINES = 200  # after these only the newest line every few seconds: a program may complain of each record
_LOG_SECONDS = 5.0
_LINE_BYTES = 8192
_PASSWORD_VARIABLE = "DBOPS_AEROSPIKE_PASSWORD"  # noqa: S105 - its name
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")


@dataclass(frozen=True)
class _Facts:
    """Of one program: what `--version` prints, since when its options are those used here, what its counters say."""

    version: re.Pattern[str]
    oldest: tuple[int, ...]
    counters: tuple[re.Pattern[str], ...]


# 3.12: the first asbackup that keeps the context of an index on a nested value, and the first asrestore that reads it.
_FACTS = {
    "asbackup": _Facts(
        re.compile(r"Aerospike Backup\b.*?^Version (\d+(?:\.\d+)+)", re.DOTALL | re.MULTILINE),
        (3, 12),
        (
            re.compile(
                r"Backed up (?P<records>\d+) record\(s\), (?P<indexes>\d+) secondary index\(es\), "
                r"(?P<udfs>\d+) UDF file\(s\), (?P<bytes>\d+) byte\(s\) in total"
            ),
        ),
    ),
    "absctl": _Facts(
        re.compile(r"^version: v?(\d+(?:\.\d+)+)", re.MULTILINE),
        (1, 0),
        (
            re.compile(r"^Records Read:\s+(?P<records>\d+)$"),
            re.compile(r"^sIndex Read:\s+(?P<indexes>\d+)$"),
            re.compile(r"^UDFs Read:\s+(?P<udfs>\d+)$"),
            re.compile(r"^Bytes Written:\s+(?P<bytes>\d+)$"),
        ),
    ),
    "asrestore": _Facts(
        re.compile(r"Aerospike Restore\b.*?^Version (\d+(?:\.\d+)+)", re.DOTALL | re.MULTILINE),
        (3, 12),
        (
            re.compile(
                r"(?P<udfs>\d+) UDF file\(s\), (?P<indexes>\d+) secondary index\(es\), (?P<records>\d+) record\(s\) \("
            ),
            re.compile(
                r"Expired (?P<expired>\d+) : skipped (?P<skipped>\d+) : err_ignored (?P<ignored>\d+) : "
                r"inserted (?P<inserted>\d+): failed \d+ \(existed (?P<existed>\d+) , fresher (?P<fresher>\d+)\)"
            ),
        ),
    ),
}


class ProgramUnusable(ConfigurationError):
    """A program that is not there, cannot be started, is another one, or is too old."""


class ProgramFailed(RetryableError):
    """A program ended badly, hung, or its output is not what it says."""


@dataclass(frozen=True)
class Program:
    """A program that was found and said its version."""

    name: Name
    path: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Taken:
    """What stood before the records of a slice: names of secondary indexes and UDFs, in the order of the text."""

    indexes: list[str]
    udfs: list[str]


@dataclass(frozen=True)
class OfficialRestoreResult:
    """What asrestore did with the records that it was given; `records` is the sum of all but `indexes` and `udfs`.

    `existed` and `fresher` were left as they are, by policy; `expired` and `skipped` (of another set, or without bins)
    were not tried. An index counts although it was there already.
    """

    records: int
    inserted: int
    existed: int
    fresher: int
    expired: int
    skipped: int
    indexes: int
    udfs: int


def no_tick() -> None:
    """Nothing has to be done meanwhile."""


# ------------------------------------------------------------------------- find


def find_program(name: Name, path: str | None = None) -> Program:
    """The program at `path`, or the one that PATH finds, if it can be used.

    :raises ProgramUnusable: it is missing, cannot be started, is another program, or is too old.
    :raises ProgramFailed: it did not say its version in time.
    """
    found = path or shutil.which(name)
    if found is None:
        raise ProgramUnusable(
            f"find {name}: it is not on this worker's PATH; install Aerospike's tools there, name the program by "
            "`engine_path` in the platform file, or set `engine: native`"
        )
    try:
        facts = Path(found).stat()
    except OSError as problem:
        raise ProgramUnusable(
            f"find {name}: {found} cannot be used: {problem.strerror}; install it on every worker, or correct "
            "`engine_path` in the platform file"
        ) from None
    return Program(name, found, _version(name, found, facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=32)
def _version(name: Name, path: str, changed: int, size: int) -> str:
    """Asked again when the file is another one."""
    try:
        answer = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_SECONDS,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"{path} --version: no answer within {_VERSION_SECONDS:.0f} s") from None
    except OSError as problem:
        raise ProgramUnusable(f"{path} --version: cannot be started: {problem.strerror}") from None
    said = (answer.stdout + answer.stderr).decode(errors="replace")
    if answer.returncode:
        raise ProgramUnusable(
            f"{path} --version: {_exit_in_words(answer.returncode)} and said {said[-500:]!r}; run it by hand on this "
            "worker to see what it lacks"
        )
    facts = _FACTS[name]
    found = facts.version.search(said)
    if found is None:
        raise ProgramUnusable(f"{path} --version: said {said[:200]!r}, which is not the version of {name}")
    if tuple(map(int, found[1].split("."))) < facts.oldest:
        raise ProgramUnusable(
            f"{path} is {name} {found[1]}: too old, {'.'.join(map(str, facts.oldest))} is the oldest that can be used; "
            "install a newer one"
        )
    return found[1]


def _environment() -> dict[str, str]:
    """What a program needs and no more: a worker's environment holds secrets. UTC, since it takes local times."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"TZ": "UTC"}


# -------------------------------------------------------------------- arguments


def _connection(access: Access) -> list[str]:
    """The programs name these options alike."""
    hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in access.seeds)
    found = [f"--host={','.join(hosts)}"]
    if access.alternate_addresses:
        found.append("--services-alternate")
    if access.tls is not None:
        found.append("--tls-enable")
        for option, value in (
            ("name", access.tls.name),
            ("cafile", access.tls.ca_file),
            ("certfile", access.tls.cert_file),
            ("keyfile", access.tls.key_file),
        ):
            if value:
                found.append(f"--tls-{option}={value}")
    if access.user is not None:
        found.append(f"--user={access.user}")
    return found


def _backup_arguments(
    program: Program,
    namespace: str,
    first: int,
    last: int,
    modified_after: datetime | None,
    records_per_second: int,
    state_file: str,
) -> list[str]:
    found = ["backup"] if program.name == "absctl" else []
    found += [f"--namespace={namespace}", "--output-file=-", f"--partition-list={first}-{last - first + 1}"]
    found += ["--parallel=1", "--compact"]
    if program.name == "asbackup":
        # A single file is preceded by an estimate of its size that reads this many records, 10,000 if not told; the
        # state file of a run that failed would be left in the working directory.
        found += ["--estimate-samples=1", f"--state-file-dst={state_file}"]
    if modified_after is not None:
        whole = modified_after.astimezone(UTC).replace(microsecond=0)
        found.append(f"--modified-after={whole:%Y-%m-%d_%H:%M:%S}")
    if records_per_second:
        found.append(f"--records-per-second={records_per_second}")
    if first:
        found += ["--no-indexes", "--no-udfs"]
    return found


_POLICIES: dict[Policy, list[str]] = {
    "missing": ["--unique"],
    "newer": [],
    "update": ["--no-generation"],
    "replace": ["--replace", "--no-generation"],
}
# What a policy may leave as it is; any other record that was not written has failed.
_LEFT: dict[Policy, tuple[str, ...]] = {
    "missing": ("existed", "fresher"),
    "newer": ("fresher",),
    "update": (),
    "replace": (),
}


def _restore_arguments(
    namespace: str,
    source: str,
    policy: Policy,
    indexes: bool,
    sets: Sequence[str],
    bins: Sequence[str],
    extra_ttl: timedelta,
) -> list[str]:
    found = [f"--namespace={source},{namespace}", "--input-file=-", *_POLICIES[policy]]
    if not indexes:
        found += ["--no-indexes", "--no-udfs"]
    for option, names in (("set", sets), ("bin", bins)):
        for name in names:
            if "," in name:
                raise ConfigurationError(
                    f"restore with asrestore: it takes a list of {option}s with commas between, so it cannot be told "
                    f"of {name!r}; restore with the engine native"
                )
        if names:
            found.append(f"--{option}-list={','.join(names)}")
    if extra_ttl:
        found.append(f"--extra-ttl={round(extra_ttl.total_seconds())}")
    return found


# ---------------------------------------------------------------------- running


_running: list[_Run] = []


def stop_programs() -> None:
    """Kill every program that this process runs; whoever waits for one gets an error that says so.

    For the `on_kill` of an operator: may be called in a signal handler.
    """
    for run in list(_running):
        run.stopped = True
        run.kill()


class _Listener(threading.Thread):
    """Reads what a program says on stderr, to its end: into the log, its counters, its last words for an error."""

    def __init__(self, stderr: IO[bytes], program: Program, secrets: Sequence[str]) -> None:
        super().__init__(name=f"{program.name}-stderr", daemon=True)
        self._stderr, self._program, self._secrets = stderr, program, secrets
        self._errors: deque[str] = deque(maxlen=5)
        self._last: deque[str] = deque(maxlen=3)
        self._logged = self._left_out = 0
        self._logged_at = 0.0
        self.heard_at = 0.0
        self.counters: dict[str, int] = {}

    @property
    def last_words(self) -> str:
        return " / ".join(self._errors or self._last) or "nothing"

    def run(self) -> None:
        rest = b""
        while block := self._stderr.read(1 << 16):
            self.heard_at = time.monotonic()
            *lines, rest = re.split(rb"[\r\n]+", rest + block)
            if len(rest) > _LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._hear(line)
        self._hear(rest)
        self._stderr.close()  # here, since what a program leaves behind may hold it open for longer than its run

    def _hear(self, raw: bytes) -> None:
        line = redact(raw[:_LINE_BYTES].decode(errors="replace").strip(), self._secrets)
        if not line:
            return
        for pattern in _FACTS[self._program.name].counters:
            if found := pattern.search(line):
                self.counters |= {name: int(value) for name, value in found.groupdict().items()}
        bad = "[ERR]" in line or "level=ERROR" in line
        self._last.append(line)
        if bad:
            self._errors.append(line)
        now = time.monotonic()
        if self._logged < _LOGGED_LINES or now - self._logged_at >= _LOG_SECONDS:
            more = f" (and {self._left_out} lines before it)" if self._left_out else ""
            log.log(logging.WARNING if bad else logging.INFO, "%s: %s%s", self._program.name, line, more)
            self._logged, self._logged_at, self._left_out = self._logged + 1, now, 0
        else:
            self._left_out += 1


class _Run:
    """One program at work, in a process group of its own."""

    def __init__(
        self, program: Program, what: str, process: subprocess.Popen[bytes], listener: _Listener, silence: float
    ) -> None:
        self.program, self.what, self.process, self.listener = program, what, process, listener
        self.silence_seconds = silence
        self.stopped = False

    def kill(self) -> None:
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def failed(self, reason: str) -> ProgramFailed:
        return ProgramFailed(f"{self.program}, {self.what}: {reason}; it said: {self.listener.last_words}")

    def await_ready(self, fd: int, event: int, on_tick: Callable[[], None]) -> None:
        """Until the program reads or writes.

        :raises ProgramFailed: it has been silent for too long.
        """
        poller = select.poll()
        poller.register(fd, event)
        since = time.monotonic()
        while not poller.poll(_TICK_SECONDS * 1000):
            self._tick(since, on_tick)

    def finish(self, on_tick: Callable[[], None]) -> dict[str, int]:
        """Wait for the end; the counters that it printed.

        :raises ProgramFailed: it ended badly, or not at all.
        """
        since = time.monotonic()
        while True:
            try:
                code = self.process.wait(_TICK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                self._tick(since, on_tick)
        self.listener.join(_LOG_SECONDS)
        if self.stopped:
            raise self.failed("was killed, since its task was told to end")
        if code:
            raise self.failed(_exit_in_words(code))
        return self.listener.counters

    def _tick(self, since: float, on_tick: Callable[[], None]) -> None:
        on_tick()
        silent = time.monotonic() - max(since, self.listener.heard_at)
        if silent > self.silence_seconds:
            raise self.failed(f"has neither read, written nor said anything for {silent:.0f} s, and was killed")


@contextmanager
def _started(
    program: Program, arguments: Sequence[str], access: Access, what: str, *, reads: bool, silence_seconds: float
) -> Iterator[_Run]:
    """Run a program; it is killed when the block ends before it does.

    :param reads: its stdin is a pipe, else its stdout.
    """
    command = [program.path, *arguments, *_connection(access)]
    environment = _environment()
    config: int | None = None
    password = access.password or ""
    encoded = base64.b64encode(password.encode()).decode()
    if program.name == "absctl":
        if access.user is not None and password:
            command.append(f"--password=env-b64:{_PASSWORD_VARIABLE}")
            environment[_PASSWORD_VARIABLE] = encoded
    elif access.user is None:
        command.append("--no-config-file")
    else:
        config = _pipe_with(f"[cluster]\npassword = {json.dumps(password, ensure_ascii=False)}\n".encode())
        command.append(f"--only-config-file=/dev/fd/{config}")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if reads else subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,
            pass_fds=() if config is None else (config,),
        )
    except OSError as problem:
        raise ProgramUnusable(f"{program}, {what}: {program.path} cannot be started: {problem.strerror}") from None
    finally:
        if config is not None:
            os.close(config)
    assert process.stderr is not None
    listener = _Listener(process.stderr, program, (password, *password.splitlines(), encoded))
    run = _Run(program, what, process, listener, silence_seconds)
    _running.append(run)
    try:
        listener.start()
        yield run
    finally:
        run.kill()
        process.wait()
        _running.remove(run)
        if listener.is_alive():
            listener.join(_LOG_SECONDS)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _pipe_with(data: bytes) -> int:
    """A descriptor to read some bytes from. They never lie on a disk, whoever is killed."""
    reading, writing = os.pipe()
    try:
        os.write(writing, data)  # a pipe holds more than a password
    finally:
        os.close(writing)
    return reading


def _exit_in_words(code: int) -> str:
    number = -code if code < 0 else code - 128 if code > 128 else 0  # 128 + n is how a shell says it
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exited with status {code}"
    if number == signal.SIGKILL:
        return (
            "was killed (signal 9, SIGKILL); unless a person did that, the machine or the container was out of memory: "
            "run fewer slices at once, or give the worker more"
        )
    return f"was ended by signal {number} ({name})"


# ----------------------------------------------------------------------- backup


class _Output(io.RawIOBase):
    """A program's stdout, each block handed on before anybody looks at it."""

    def __init__(self, run: _Run, take: Callable[[memoryview], object], on_tick: Callable[[], None]) -> None:
        assert run.process.stdout is not None
        self._run, self._take, self._on_tick = run, take, on_tick
        self._fd = run.process.stdout.fileno()
        self.size = 0
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        self._run.await_ready(self._fd, select.POLLIN, self._on_tick)
        size = os.readv(self._fd, [view])
        if size:
            self._take(view[:size])
            self.size += size
        else:
            self.ended = True
        self._on_tick()
        return size


def backup_partitions(
    program: Program,
    access: Access,
    namespace: str,
    first: int,
    last: int,
    take: Callable[[bytes | memoryview], object],
    tally: Tally,
    *,
    modified_after: datetime | None = None,
    records_per_second: int = 0,
    on_tick: Callable[[], None] = no_tick,
    silence_seconds: float = SILENCE_SECONDS,
) -> Taken:
    """Read partitions `first` to `last` (inclusive) with a program; the slice of partition 0 has indexes and UDFs too.

    :param take: gets the text, block after block. When this raises, what it got is worthless.
    :param tally: counts and fingerprints per partition are added to it.
    :param modified_after: only what changed since; rounded down to a whole second.
    :param on_tick: called after each block, and every second while none comes; when it raises, the program is killed.
    :raises ProgramFailed: the program ended badly, hung, wrote what is no `.asb`, or counted otherwise.
    """
    what = f"reading partitions {first}-{last} of {access.cluster}/{namespace}"
    with tempfile.TemporaryDirectory(prefix="dbops-") as scratch:
        arguments = _backup_arguments(
            program, namespace, first, last, modified_after, records_per_second, f"{scratch}/state"
        )
        with _started(program, arguments, access, what, reads=False, silence_seconds=silence_seconds) as run:
            output = _Output(run, take, on_tick)
            before = tally.records
            try:
                preamble = asb.read_header(cast(BinaryIO, output), namespace)
                scan_records(cast(BinaryIO, output), preamble, tally.counts, tally.fingerprints)
            except asb.AsbError as problem:
                if not output.ended:
                    raise run.failed(f"wrote what is no .asb text: {problem}") from None
                counters = run.finish(on_tick)  # a bad end explains a text that is cut
                if program.name != "absctl" or output.size or counters.get("records") != 0:
                    raise run.failed(f"exited with 0, but its text is not whole: {problem}") from None
                take(asb.header(namespace))  # absctl opens its output only when there is something to write
                return Taken([], [])
            counters = run.finish(on_tick)
            outside = tally.records - int(tally.counts[first : last + 1].sum())
            if outside:
                raise run.failed(f"wrote {outside} records of other partitions")
            counted = {
                "records": tally.records - before,
                "indexes": len(preamble.indexes),
                "udfs": len(preamble.udfs),
                "bytes": output.size,
            }
            if counters != counted:
                raise run.failed(f"says that it wrote {counters or 'nothing at all'}, its text holds {counted}")
            return Taken([index.name for index in preamble.indexes], [udf.name for udf in preamble.udfs])


# ---------------------------------------------------------------------- restore


def restore_text(
    program: Program,
    access: Access,
    namespace: str,
    chunks: Iterable[bytes | memoryview],
    *,
    policy: Policy,
    source: str | None = None,
    records: int | None = None,
    indexes: bool = True,
    sets: Sequence[str] = (),
    bins: Sequence[str] = (),
    extra_ttl: timedelta = timedelta(0),
    on_tick: Callable[[], None] = no_tick,
    silence_seconds: float = SILENCE_SECONDS,
) -> OfficialRestoreResult:
    """Write one whole `.asb` text with asrestore.

    What was written before an error stays written; doing it again is safe with every policy.

    :param namespace: where to.
    :param chunks: the text, neither compressed nor encrypted; an error that it raises ends the program.
    :param policy: `missing` writes only what is not there; `newer` writes what has a higher generation than what is
        there, `update` whatever is there: both leave bins that the text does not have; `replace` writes whole records.
    :param source: the namespace that the text is of, when it is another one.
    :param records: how many the text holds; the program must have seen as many.
    :param indexes: restore the secondary indexes and UDFs of the text too.
    :param on_tick: called after each chunk, and every second while the program takes none.
    :raises ProgramFailed: the program ended badly, hung, or did not write every record that the policy has it write.
    """
    what = f"restoring into {access.cluster}/{namespace}"
    arguments = _restore_arguments(namespace, source or namespace, policy, indexes, sets, bins, extra_ttl)
    with _started(program, arguments, access, what, reads=True, silence_seconds=silence_seconds) as run:
        taken = _feed(run, chunks, on_tick)
        counters = run.finish(on_tick)
        if not taken:
            raise run.failed("exited with 0 before it had read everything")
        return _accounted(run, counters, policy, records)


def _feed(run: _Run, chunks: Iterable[bytes | memoryview], on_tick: Callable[[], None]) -> bool:
    """Give a program all chunks on its stdin; False when it stopped reading."""
    assert run.process.stdin is not None
    fd = run.process.stdin.fileno()
    os.set_blocking(fd, False)
    for chunk in chunks:
        left = memoryview(chunk).cast("B")
        while left:
            run.await_ready(fd, select.POLLOUT, on_tick)
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return False
        on_tick()
    run.process.stdin.close()
    return True


def _accounted(run: _Run, counters: dict[str, int], policy: Policy, records: int | None) -> OfficialRestoreResult:
    if "records" not in counters or "inserted" not in counters:
        raise run.failed("exited with 0, but did not say what it restored")
    ignored = counters.pop("ignored")
    result = OfficialRestoreResult(**counters)
    if records is not None and result.records != records:
        raise run.failed(f"says that it read {result.records} records, the text holds {records}")
    done = result.inserted + result.existed + result.fresher + result.expired + result.skipped
    if done != result.records or ignored:
        raise run.failed(
            f"read {result.records} records and accounts for {done} of them ({counters}); {ignored} were refused"
        )
    left = {name: counters[name] for name in ("existed", "fresher") if counters[name] and name not in _LEFT[policy]}
    if left:
        raise run.failed(f"did not write every record, as the policy {policy} asks for: {left}")
    return result
