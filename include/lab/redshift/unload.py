"""UNLOAD: the rows of a query into files on S3, as several slices write them, with Redshift's manifest.

A file is written to the local disk and goes to S3 when it is complete. A failure half way leaves the files that
were complete, and no manifest; so does Redshift.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from dbops_lab.redshift.backend import Backend, BackendError, Column
from dbops_lab.redshift.bulk import InternalError, Session, detail, list_objects, now, s3_error, split_url
from dbops_lab.redshift.columns import NUMERIC, manifest_type, numeric
from dbops_lab.redshift.options import UnloadStatement, parse_unload
from dbops_lab.redshift.unload_files import ParquetSlices, Slices, TextSlices, alias

FORMATS = {"parquet": "Parquet", "csv": "CSV", "text": "Text"}
SUFFIXES = {"gzip": ".gz", "zstd": ".zst", "bzip2": ".bz2"}
# One thread: the lab's S3 and PostgreSQL have the other core.
TRANSFER = TransferConfig(use_threads=False, multipart_chunksize=16 << 20, multipart_threshold=32 << 20)
OCCUPIED = (
    "Specified unload destination on S3 is not empty. Consider using a different bucket / prefix, manually "
    "removing the target files in S3, or using the ALLOWOVERWRITE option."
)


@dataclass(frozen=True)
class UnloadFile:
    """A row of STL_UNLOAD_LOG and SYS_UNLOAD_DETAIL. A header counts as a line."""

    path: str
    line_count: int
    transfer_size: int
    started: datetime
    ended: datetime


@dataclass
class UnloadDone:
    """A row of SYS_UNLOAD_HISTORY: what the statement did, `aborted` if it failed half way."""

    location: str
    file_format: str
    compression: str
    started: datetime
    ended: datetime
    status: str = "running"
    rows: int = 0
    files: list[UnloadFile] = field(default_factory=list)
    manifest: str | None = None
    error_message: str = ""

    @property
    def size(self) -> int:
        return sum(file.transfer_size for file in self.files)

    @property
    def notices(self) -> list[str]:
        return [f"UNLOAD completed, {self.rows} record(s) unloaded successfully."]


class UnloadFailed(BackendError):
    """UNLOAD failed after it began; `done` says which files are there."""

    def __init__(self, error: BackendError, done: UnloadDone, query_id: int) -> None:
        super().__init__(error.code, error.message, detail(error, query_id), error.hint)
        self.done = done


def run(statement_text: str, backend: Backend, s3: Any, session: Session) -> UnloadDone:
    """Carry out an UNLOAD in the client's session.

    :raises BackendError: refused before it began.
    :raises UnloadFailed: failed half way, or the query did.
    """
    statement = parse_unload(statement_text)
    started = now()
    destination = statement.destination
    if statement.partition_by and not destination.endswith("/"):
        destination += "/"
    done = UnloadDone(destination, FORMATS[statement.format], statement.compression or "none", started, started)
    try:
        _unload(statement, done, backend, s3, session)
    except (BackendError, ClientError, BotoCoreError) as error:
        reason = s3_error(error) if isinstance(error, (ClientError, BotoCoreError)) else error
        done.status, done.ended, done.rows, done.error_message = "aborted", now(), 0, reason.message
        raise UnloadFailed(reason, done, session.query_id) from error
    done.status, done.ended = "completed", now()
    return done


def _unload(statement: UnloadStatement, done: UnloadDone, backend: Backend, s3: Any, session: Session) -> None:
    query = f"({session.translate(statement.query)}\n) AS unloaded"
    columns, _ = backend.query(f"SELECT * FROM {query} LIMIT 0")
    _check_partitions(statement, columns)
    target = Target(statement, done, s3, session)
    target.clear()
    slices: Slices
    slices = (ParquetSlices if statement.format == "parquet" else TextSlices)(statement, columns, target)
    rows = backend.copy_out(slices.copy_statement(_source(query, columns, statement)))
    with ExitStack() as stack:
        if isinstance(rows, Generator):
            stack.callback(rows.close)  # the session is free again, however this ends
        stack.enter_context(slices)
        done.rows = slices.write(rows)
    if statement.manifest and done.files:
        _write_manifest(statement, slices.columns, done, s3)


def _check_partitions(statement: UnloadStatement, columns: Sequence[Column]) -> None:
    names = [column.name for column in columns]
    for name in statement.partition_by:
        if name not in names:
            raise BackendError("42703", f'column "{name}" does not exist in the query of UNLOAD')
    if len(set(statement.partition_by)) >= len(set(names)) and not statement.include:
        raise BackendError("0A000", "At least one column of UNLOAD must not be a partition column")


def _source(query: str, columns: Sequence[Column], statement: UnloadStatement) -> str:
    """The query with aliases, since it may have two columns of one name.

    Numerics that have no scale get one; partitions are sorted, so that each comes as a whole.
    """
    precision, scale = numeric(-1)
    shown = [
        f"{alias(index)}::numeric({precision},{scale})" if column.oid == NUMERIC and column.typmod < 4 else alias(index)
        for index, column in enumerate(columns)
    ]
    names = [column.name for column in columns]
    order = ", ".join(alias(names.index(name)) for name in statement.partition_by)
    aliases = ", ".join(alias(index) for index in range(len(columns)))
    return f"SELECT {', '.join(shown)} FROM {query} ({aliases})" + (f" ORDER BY {order}" if order else "")


class Target:
    """The prefix on S3: what stands there, and where a slice's next file goes."""

    def __init__(self, statement: UnloadStatement, done: UnloadDone, s3: Any, session: Session) -> None:
        self.slices = session.slices if statement.parallel else 1
        self._statement = statement
        self._done = done
        self._s3 = s3
        self._failing = session.faults.get("unload_slice")
        self.bucket, self.prefix = split_url(done.location)
        suffix = SUFFIXES.get(statement.compression or "", "")
        extension = ".parquet" if statement.format == "parquet" else suffix
        if statement.extension is not None:
            extension = "." + statement.extension.removeprefix(".") if statement.extension else ""
        self._extension = extension
        self._parts: dict[tuple[str, int], int] = {}

    def clear(self) -> None:
        """Make sure that nothing is in the way."""
        if self._statement.allow_overwrite:
            return
        if self._statement.clean_path:
            if not self._statement.partition_by:
                self._remove(self.prefix)
        elif next(list_objects(self._s3, self.bucket, self.prefix), None):
            raise InternalError(OCCUPIED)

    def enter(self, folder: str) -> None:
        """A partition's first file comes."""
        if self._statement.clean_path and self._statement.partition_by:
            self._remove(self.prefix + folder)

    def _remove(self, prefix: str) -> None:
        for found in list(list_objects(self._s3, self.bucket, prefix)):
            self._s3.delete_object(Bucket=self.bucket, Key=found.key)

    def put(self, folder: str, slice_number: int, body: IO[bytes], lines: int, started: datetime) -> None:
        """Upload a slice's next file.

        :raises BackendError: as a test ordered.
        """
        part = self._parts.get((folder, slice_number), 0)
        self._parts[folder, slice_number] = part + 1
        name = f"{slice_number:04d}_part_{part:02d}" if self._statement.parallel else f"{part:03d}"
        key = self.prefix + folder + name + self._extension
        if slice_number == self._failing:
            raise InternalError(
                f"S3ServiceException:the lab was told to fail slice {slice_number},Status 500,Error InternalError"
            )
        size = body.seek(0, 2)
        body.seek(0)
        self._s3.upload_fileobj(body, self.bucket, key, Config=TRANSFER)
        self._done.files.append(UnloadFile(f"s3://{self.bucket}/{key}", lines, size, started, now()))


def _write_manifest(statement: UnloadStatement, columns: Sequence[Column], done: UnloadDone, s3: Any) -> None:
    entries: list[dict[str, Any]] = []
    for file in done.files:
        meta = {"content_length": file.transfer_size}
        if statement.verbose:
            meta["record_count"] = file.line_count
        entries.append({"url": file.path, "meta": meta})
    manifest: dict[str, Any] = {"entries": entries}
    if statement.verbose:
        elements = [{"name": column.name, "type": manifest_type(column)} for column in columns]
        lines = sum(file.line_count for file in done.files)
        manifest["schema"] = {"elements": elements}
        manifest["meta"] = {"content_length": done.size, "record_count": lines}
        manifest["author"] = {"name": "Amazon Redshift", "version": "1.0.0"}
    bucket, prefix = split_url(done.location)
    s3.put_object(Bucket=bucket, Key=prefix + "manifest", Body=json.dumps(manifest, indent=2).encode())
    done.manifest = f"s3://{bucket}/{prefix}manifest"
