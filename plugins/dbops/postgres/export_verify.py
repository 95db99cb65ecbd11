"""Read an export back from the store alone: every byte's SHA-256, and whether pg_restore understands what is there."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dbops.backups.cipher import NO_KEYS, Key, Keys, NotEncrypted, decrypt
from dbops.backups.store import NotFound, Store
from dbops.errors import FinalError
from dbops.platform import PostgresExports
from dbops.postgres.exports import (
    TOC,
    Export,
    ExportManifest,
    OnBytes,
    StoredFile,
    find_export,
    remember_verified,
    unwatched,
)
from dbops.postgres.programs import ProgramFailed, Running, find_program, run_program

_DO = "restore from an older export and take a new one"
_ENTRY = re.compile(r"^\d+; \d+ \d+ (.*)$")


class DamagedExport(FinalError):
    """An export is not what its manifest says."""


@dataclass(frozen=True)
class ExportReport:
    """What reading back found."""

    at: datetime
    problems: tuple[str, ...]
    objects: int
    bytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.problems


class StoredBytes:
    """The bytes of an object as pg_dump wrote them, while those that are stored are hashed."""

    def __init__(self, store: Store, manifest: ExportManifest, item: StoredFile, key: Key | None, on_read: OnBytes):
        self._hash, self.size, self._on_read = hashlib.sha256(), 0, on_read
        self._item, self._name = item, f"{manifest.prefix}{item.name}"
        stored = map(self._seen, store.read(self._name))
        self.blocks: Iterator[bytes] = stored if key is None else decrypt(stored, key, f"{store.url}/{self._name}")

    def _seen(self, block: bytes) -> bytes:
        self._hash.update(block)
        self.size += len(block)
        self._on_read(len(block))
        return block

    def problem(self) -> str | None:
        """What is wrong with the object; what nobody has read yet is read now."""
        for _ in self.blocks:
            pass
        item = self._item
        if self.size != item.size:
            return f"{item.name}: is {self.size} bytes, the manifest says {item.size}: it was cut or replaced; {_DO}"
        if (found := self._hash.hexdigest()) != item.sha256:
            return f"{item.name}: SHA-256 is {found}, the manifest says {item.sha256}: it has changed; {_DO}"
        return None


def verify_export(
    store: Store, export: Export, settings: PostgresExports, *, keys: Keys = NO_KEYS, on_read: OnBytes = unwatched
) -> ExportReport:
    """Read every object back: size, SHA-256, and the table of contents by `pg_restore --list`.

    The outcome is kept in `verified.json` beside the manifest.

    :param on_read: told the size of each stored block.
    :raises StoreUnavailable, ProgramMissing, KeyMissing, WrongKey: it could not be read, which says nothing about it.
    :raises NotFound: it expired while it was read.
    """
    started, problems, seen = time.monotonic(), [], 0

    def count(size: int) -> None:
        nonlocal seen
        seen += size
        on_read(size)

    objects = 0
    if export.damage is not None:
        problems.append(f"{export.damage}; {_DO}")
    else:
        manifest = export.manifest
        key = keys.find(manifest.encryption, f"export {manifest.id} of {manifest.instance}/{manifest.export}")
        listed: list[str] | None = None
        for item in manifest.objects:
            source = StoredBytes(store, manifest, item, key, count)
            try:
                if manifest.format == "custom" or item.name == TOC:
                    listed = _list(manifest, item, source, settings, problems)
                problem = source.problem()
            except NotFound:
                problem = f"{item.name}: is missing, the manifest says {item.size} bytes; {_DO}"
            except NotEncrypted as error:
                problem = f"{item.name}: is no whole encrypted object: {error}; {_DO}"
            if problem:
                problems.append(problem)
            objects += 1
        if listed is not None:
            problems += _missing(manifest, listed)
        if problems:
            find_export(store, export.instance, export.export, export.id)  # what retention deletes is not damaged
    at = datetime.now(UTC)
    remember_verified(store, export, at, problems)
    return ExportReport(at, tuple(problems), objects, seen, time.monotonic() - started)


def _missing(manifest: ExportManifest, listed: list[str]) -> Iterator[str]:
    """Tables of the manifest that the archive has no rows of."""
    data = [entry for entry in listed if entry.startswith("TABLE DATA ")]
    gone = [
        str(table)
        for table in manifest.tables
        if not any(entry.startswith(f"TABLE DATA {table.namespace} {table.name} ") for entry in data)
    ]
    if gone:
        more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
        yield f"pg_restore lists no rows of {', '.join(gone[:5])}{more}, which the manifest counts; {_DO}"


def _list(
    manifest: ExportManifest, item: StoredFile, source: StoredBytes, settings: PostgresExports, problems: list[str]
) -> list[str] | None:
    try:
        return list_archive(manifest, source.blocks, settings)
    except ProgramFailed as error:
        problems.append(f"{item.name}: is no archive that pg_restore reads: {error}; {_DO}")
        return None


def list_archive(manifest: ExportManifest, blocks: Iterator[bytes], settings: PostgresExports) -> list[str]:
    """The entries of an archive, as `pg_restore --list` names them: `TABLE DATA public campaigns owner`.

    :param blocks: of the archive, or of its table of contents; only as much is read as pg_restore wants.
    """
    return [found[1] for line in list_lines(manifest, blocks, settings) if (found := _ENTRY.match(line))]


def list_lines(manifest: ExportManifest, blocks: Iterator[bytes], settings: PostgresExports) -> list[str]:
    """What `pg_restore --list` prints, which `--use-list` takes.

    :raises ProgramFailed: it is no archive.
    """
    what = f"list export {manifest.id} of {manifest.instance}/{manifest.export}"
    program = find_program("pg_restore", manifest.program_major, settings.programs, f"{what}: the export")
    with tempfile.TemporaryDirectory(prefix="dbops-list-") as folder, tempfile.TemporaryFile() as out:
        arguments, stdin = ["--list"], subprocess.PIPE
        if manifest.format == "directory":
            with (Path(folder) / TOC).open("wb") as toc:
                toc.writelines(blocks)
            arguments, stdin = [*arguments, "--format=directory", folder], subprocess.DEVNULL
        with run_program(program.path, arguments, None, stdin=stdin, stdout=out.fileno()) as running:
            if stdin == subprocess.PIPE:
                feed(running, blocks)
            running.check(what)
        out.seek(0)
        return out.read().decode(errors="replace").splitlines()


def feed(running: Running, blocks: Iterator[bytes]) -> None:
    """Give a program its input, until there is no more or it wants no more."""
    with suppress(BrokenPipeError):  # it has what it wants, or has failed: then its exit code tells
        for block in blocks:
            running.input.write(block)
    with suppress(BrokenPipeError):
        running.input.close()
