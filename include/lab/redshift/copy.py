"""COPY: files on S3 into a table, in the client's session, with Redshift's checks and its record of what failed.

All files go through one COPY of the server behind, so that a load that fails loads nothing, in a transaction or not.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

import zstandard
from botocore.exceptions import BotoCoreError, ClientError
from dbops_lab.redshift import columns as types
from dbops_lab.redshift import copy_parquet
from dbops_lab.redshift.backend import Backend, BackendError
from dbops_lab.redshift.bulk import (
    InternalError,
    S3Object,
    Session,
    detail,
    list_objects,
    now,
    s3_error,
    split_url,
    text_literal,
)
from dbops_lab.redshift.copy_records import (
    BadRecord,
    Pick,
    Record,
    Records,
    json_records,
    parse_json_paths,
    pick_by_name,
    pick_by_path,
    text_records,
)
from dbops_lab.redshift.copy_values import (
    DELIMITER_MISSING,
    EXTRA_COLUMNS,
    FieldError,
    TargetColumn,
    converters,
)
from dbops_lab.redshift.lexer import identifier
from dbops_lab.redshift.options import CopyStatement, parse_copy

FORMATS = {"text": "Text", "csv": "CSV", "json": "JSON", "parquet": "Parquet"}
BLOCK_ROWS = 1000
SHOWN = 1024  # bytes of raw_line and raw_field_value in STL_LOAD_ERRORS
KEPT_ERRORS = 100_000  # the largest MAXERROR
CHECK = "Check 'sys_load_error_detail' system table for details."


@dataclass(frozen=True)
class LoadError:
    """A row of STL_LOAD_ERRORS and SYS_LOAD_ERROR_DETAIL."""

    filename: str
    line_number: int
    colname: str
    type: str
    col_length: str
    position: int
    raw_line: str
    raw_field_value: str
    err_code: int
    err_reason: str


@dataclass
class LoadedFile:
    """A row of STL_LOAD_COMMITS and SYS_LOAD_DETAIL."""

    filename: str
    bytes_scanned: int
    started: datetime
    ended: datetime
    lines_scanned: int = 0


@dataclass
class CopyDone:
    """A row of SYS_LOAD_HISTORY: what the statement did, `aborted` if it loaded nothing."""

    table: str
    table_id: int
    data_source: str
    file_format: str
    compression: str
    started: datetime
    ended: datetime
    status: str = "running"
    loaded_rows: int = 0
    error_count: int = 0
    source_file_count: int = 0
    files: list[LoadedFile] = field(default_factory=list)
    errors: list[LoadError] = field(default_factory=list)
    error_message: str = ""

    @property
    def loaded_bytes(self) -> int:
        return sum(file.bytes_scanned for file in self.files)

    @property
    def notices(self) -> list[str]:
        said = [f"Load into table '{self.table}' completed, {self.loaded_rows} record(s) loaded successfully."]
        if self.error_count:
            said.append(
                f"Load into table '{self.table}' completed, {self.error_count} record(s) could not be loaded.  {CHECK}"
            )
        return said


class CopyFailed(BackendError):
    """COPY failed after it began; `done` has the errors to record, which a rollback does not undo."""

    def __init__(self, error: BackendError, done: CopyDone, query_id: int) -> None:
        super().__init__(error.code, error.message, detail(error, query_id), error.hint)
        self.done = done


def run(statement_text: str, backend: Backend, s3: Any, session: Session) -> CopyDone:
    """Carry out a COPY in the client's session.

    :raises BackendError: refused before it began.
    :raises CopyFailed: it loaded nothing; the server's transaction is aborted if the load had begun.
    """
    statement = parse_copy(statement_text)
    started = now()
    name, table_id, columns = _target(statement, backend)
    done = CopyDone(
        name,
        table_id,
        statement.source,
        FORMATS[statement.format],
        statement.compression or "none",
        started,
        started,
    )
    loader = Loader(statement, columns, done, s3)
    try:
        loader.open()
        with closing(loader.blocks()) as blocks:
            if statement.no_load:
                for _ in blocks:
                    pass
            else:
                done.loaded_rows = backend.copy_in(loader.copy_statement(), blocks)
    except (BackendError, ClientError, BotoCoreError) as error:
        # The server's word for a cancelled load is not the reason.
        reason = loader.failure or (s3_error(error) if isinstance(error, (ClientError, BotoCoreError)) else error)
        done.status, done.ended, done.loaded_rows, done.error_message = "aborted", now(), 0, reason.message
        raise CopyFailed(reason, done, session.query_id) from error
    done.status, done.ended = "completed", now()
    return done


def _target(statement: CopyStatement, backend: Backend) -> tuple[str, int, list[TargetColumn]]:
    """The table's name and number, and the columns that the files fill."""
    qualified = ".".join(map(identifier, statement.table))
    _, rows = backend.query(
        "SELECT c.oid, c.relname, a.attname,"
        " CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE a.atttypid END,"
        " CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE a.atttypmod END,"
        " a.attnotnull OR t.typnotnull, a.attidentity"
        " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid"
        " JOIN pg_catalog.pg_type t ON t.oid = a.atttypid"
        f" WHERE c.oid = pg_catalog.to_regclass({text_literal(qualified)}) AND c.relkind IN ('r', 'p')"
        " AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
    )
    if not rows:
        raise BackendError("42P01", f"Cannot COPY into nonexistent table {statement.table[-1]}")
    every = [TargetColumn(str(row[2]), int(row[3] or 0), int(row[4] or 0), row[5] == "t", row[6] or "") for row in rows]
    return str(rows[0][1]), int(rows[0][0] or 0), _chosen(statement, every)


def _chosen(statement: CopyStatement, every: Sequence[TargetColumn]) -> list[TargetColumn]:
    """The columns of the list, or all; IDENTITY columns only with EXPLICIT_IDS, and then they must be there."""
    if statement.columns is None:
        chosen = [column for column in every if column.identity != "a" or statement.explicit_ids]
    else:
        known = {column.name: column for column in every}
        for name in statement.columns:
            if name not in known:
                raise BackendError("42703", f'column "{name}" of relation "{statement.table[-1]}" does not exist')
            if statement.columns.count(name) > 1:
                raise BackendError("42701", f'column "{name}" specified more than once')
        chosen = [known[name] for name in statement.columns]
    if statement.explicit_ids:
        missing = {column.name for column in every if column.identity == "a"} - {column.name for column in chosen}
        if missing or not any(column.identity for column in every):
            raise BackendError("42601", "EXPLICIT_IDS needs an identity column among the columns that are loaded")
    elif any(column.identity == "a" for column in chosen):
        raise BackendError("42601", "cannot set an identity column to a value without EXPLICIT_IDS")
    return chosen


class Loader:
    """Reads the files one after the other into blocks for the server's COPY, and counts what it cannot load."""

    def __init__(self, statement: CopyStatement, columns: Sequence[TargetColumn], done: CopyDone, s3: Any) -> None:
        self.failure: BackendError | None = None
        self._statement = statement
        self._columns = columns
        self._converters = converters(columns, statement)
        self._done = done
        self._s3 = s3
        self._objects: list[S3Object] = []
        self._records: Callable[[IO[str]], Records] = lambda lines: text_records(lines, statement)

    def open(self) -> None:
        """Find the files, and what maps them to columns."""
        if self._statement.format == "json":
            pick = self._picker()
            self._records = lambda lines: json_records(lines, self._statement, pick)
        self._objects = self._manifest_objects() if self._statement.manifest else self._prefix_objects()
        self._done.source_file_count = len(self._objects)

    def copy_statement(self) -> str:
        table = ".".join(map(identifier, self._statement.table))
        names = ", ".join(identifier(column.name) for column in self._columns)
        form = " WITH (FORMAT csv)" if self._statement.format == "parquet" else ""
        return f"COPY {table} ({names}) FROM STDIN{form}"

    def blocks(self) -> Generator[bytes]:
        """All rows that can be loaded.

        :raises BackendError: too many cannot, or a file is not there.
        """
        for found in self._objects:
            file = LoadedFile(found.url, found.size, now(), now())
            self._done.files.append(file)
            yield from self._file_blocks(found, file)
            file.ended = now()

    def _file_blocks(self, found: S3Object, file: LoadedFile) -> Iterator[bytes]:
        read = self._parquet if self._statement.format == "parquet" else self._text
        try:
            yield from read(found, file)
        except (ClientError, BotoCoreError) as error:
            self.failure = s3_error(error)
            raise self.failure from error
        except (OSError, EOFError, zstandard.ZstdError) as error:
            self.failure = InternalError(f"Failed to read {found.url} as {self._done.compression}: {error}")
            raise self.failure from error
        except BackendError as error:
            self.failure = error
            raise

    # Files

    def _prefix_objects(self) -> list[S3Object]:
        bucket, prefix = split_url(self._statement.source)
        found = [entry for entry in list_objects(self._s3, bucket, prefix) if entry.size]
        if not found:
            raise InternalError(f"The specified S3 prefix '{prefix}' does not exist")
        return found

    def _manifest_objects(self) -> list[S3Object]:
        bucket, key = split_url(self._statement.source)
        if not key or key.endswith("/"):
            raise InternalError("COPY with MANIFEST parameter requires full path of an S3 object.")
        try:
            body = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            raise InternalError(f"Problem reading manifest file - {s3_error(error).message}") from error
        found = [self._manifest_object(entry) for entry in _manifest_entries(body)]
        present = [entry for entry in found if entry]
        if not present:
            raise InternalError("No file of the manifest exists")
        return present

    def _manifest_object(self, entry: dict[str, Any]) -> S3Object | None:
        bucket, key = split_url(entry["url"])
        try:
            size = self._s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            if entry.get("mandatory"):
                raise InternalError("Mandatory url is not present in manifest file.", context=entry["url"]) from error
            return None
        if self._statement.format == "parquet":
            expected = entry.get("meta", {}).get("content_length")
            if expected is None:
                raise InternalError(f"Manifest entry of {entry['url']} has no meta content_length, "
                                    "which PARQUET needs", number=15007)  # fmt: skip
            if expected != size:
                raise InternalError(f"{entry['url']} has {size} bytes, its manifest entry says {expected}",
                                    number=15007)  # fmt: skip
        return S3Object(bucket, key, size)

    def _picker(self) -> Pick:
        supers = [column.oid in types.SUPERS for column in self._columns]
        paths = None
        if self._statement.json_paths.startswith("s3://"):
            bucket, key = split_url(self._statement.json_paths)
            paths = parse_json_paths(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode())
        if paths is None:
            names = [column.name for column in self._columns]
            return pick_by_name(names, supers, ignore_case=self._statement.json_paths == "auto ignorecase")
        if len(paths) != len(self._columns):
            raise InternalError(
                "Number of jsonpaths and the number of columns should match. "
                f"JSONPath size: {len(paths)}, Number of columns in table or column list: {len(self._columns)}"
            )
        return pick_by_path(paths, supers)

    # Rows

    def _parquet(self, found: S3Object, file: LoadedFile) -> Iterator[bytes]:
        with tempfile.TemporaryFile() as body:
            self._s3.download_fileobj(found.bucket, found.key, body)
            body.seek(0)
            try:
                for rows, block in copy_parquet.blocks(body, found.url, self._columns, self._statement):
                    file.lines_scanned += rows
                    yield block
            except InternalError as error:
                self._done.error_count += 1
                self._done.errors.append(LoadError(found.url, 0, "", "", "", 0, "", "", error.number, error.context))
                raise

    def _text(self, found: S3Object, file: LoadedFile) -> Iterator[bytes]:
        stream = self._s3.get_object(Bucket=found.bucket, Key=found.key)["Body"]
        unpacked = _unpacked(stream, self._statement.compression)
        # A byte that is no UTF-8 becomes a surrogate; only a column that takes it has to know.
        with closing(stream), io.TextIOWrapper(unpacked, "utf-8", "surrogateescape", newline="\n") as lines:
            rows: list[str] = []
            for record in self._records(lines):
                file.lines_scanned += 1
                if (row := self._row(record, found.url)) is None:
                    continue
                rows.append(row)
                if len(rows) == BLOCK_ROWS:
                    yield ("\n".join(rows) + "\n").encode()
                    rows = []
            if rows:
                yield ("\n".join(rows) + "\n").encode()

    def _row(self, record: Record | BadRecord, url: str) -> str | None:
        if isinstance(record, BadRecord):
            self._fail(url, record, None, FieldError(record.code, record.reason))
            return None
        fields = record.fields
        if len(fields) != len(self._converters):
            fitted = self._fitted(fields)
            if fitted is None:
                extra = len(fields) > len(self._converters)
                code, reason = (
                    (EXTRA_COLUMNS, "Extra column(s) found") if extra else (DELIMITER_MISSING, "Delimiter not found")
                )
                self._fail(url, record, None, FieldError(code, reason))
                return None
            fields = fitted
        texts: list[str] = []
        try:
            for convert, value in zip(self._converters, fields, strict=True):
                texts.append(convert(value))
        except FieldError as error:
            self._fail(url, record, len(texts), error, fields[len(texts)] or "")
            return None
        return "\t".join(texts)

    def _fitted(self, fields: Sequence[str | None]) -> Sequence[str | None] | None:
        """The fields without a delimiter at the end, or filled up as FILLRECORD asks; None when they do not fit."""
        count = len(self._converters)
        if len(fields) == count + 1 and fields[-1] == "" and self._statement.format == "text":
            return fields[:-1]
        if len(fields) < count and self._statement.fill_record:
            missing = self._columns[len(fields) :]
            return [*fields, *("" if column.oid == types.VARCHAR else None for column in missing)]
        return None

    def _fail(
        self, url: str, record: Record | BadRecord, column: int | None, error: FieldError, value: str = ""
    ) -> None:
        """Record a row that cannot be loaded.

        :raises BackendError: it was one too many.
        """
        done, target = self._done, None if column is None else self._columns[column]
        done.error_count += 1
        if len(done.errors) < KEPT_ERRORS:
            done.errors.append(
                LoadError(
                    filename=url,
                    line_number=record.line,
                    colname=target.name if target else "",
                    type=target.shown_type if target else "",
                    col_length=target.shown_length if target else "",
                    position=error.position,
                    raw_line=_shown(record.raw),
                    raw_field_value=_shown(value),
                    err_code=error.code,
                    err_reason=error.reason,
                )
            )
        if not self._statement.ignore_all_errors and done.error_count >= max(1, self._statement.max_errors):
            raise InternalError(f"Load into table '{done.table}' failed.  {CHECK}", number=error.code)


def _shown(text: str) -> str:
    return text.encode(errors="surrogateescape")[:SHOWN].decode(errors="replace").replace("\x00", "")


def _unpacked(stream: Any, compression: str | None) -> Any:
    """The object's body, unpacked while it is read."""
    if compression == "gzip":
        return gzip.GzipFile(fileobj=stream)
    if compression == "bzip2":
        return bz2.BZ2File(stream)
    if compression == "zstd":
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True))
    return io.BufferedReader(stream, 1 << 20)


def _manifest_entries(body: bytes) -> list[dict[str, Any]]:
    try:
        entries = json.loads(body)["entries"]
        if all(entry["url"].startswith("s3://") for entry in entries):
            return list(entries)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InternalError("Manifest file is not in correct json format")
