"""Object storage: an S3 bucket (or a compatible service) or a local directory, behind one protocol.

Both promise the same: an object is visible whole or not at all, its SHA-256 is computed here while it is
written, and an error says which object of which store failed, why, and what to do.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import queue
import secrets
import shutil
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from dbops.connections import ConnectionInfo
from dbops.errors import DbopsError, FinalError, RetryableError

log = logging.getLogger(__name__)

CHUNK = 1 << 20
PART = 8 << 20


class NotFound(FinalError):
    """There is no object of that key."""


class AlreadyExists(FinalError):
    """`if_absent` was asked and the object is there."""


class PreconditionFailed(FinalError):
    """`if_match` was asked and the object has changed or is gone."""


class StoreRefused(FinalError):
    """The store exists not, or does not let us in, or is full."""


class StoreUnavailable(RetryableError):
    """The store did not answer, or answered that it is busy."""


@dataclass(frozen=True)
class StoredObject:
    """One object. `sha256` (hex) is known when it was just written or when the store kept it."""

    key: str
    size: int
    sha256: str | None
    etag: str | None
    modified_at: datetime | None


@dataclass(frozen=True)
class Protection:
    """What the bucket does for an object besides keeping it."""

    locked_until: datetime | None = None
    """Object Lock: before, no version of it can be removed."""
    legal_hold: bool = False
    replication: str | None = None
    """PENDING, COMPLETED, FAILED, REPLICA; None when no replication rule applies to it."""


class ObjectWriter(ABC):
    """A new object, written as a stream; nobody sees it before `close` returns.

    As a context manager it closes on a normal end and aborts on an exception. For one thread at a time.
    """

    @abstractmethod
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take all of `data`; the caller may reuse its buffer at once."""

    @abstractmethod
    def close(self) -> StoredObject:
        """Make the object visible and durable; later calls return the same."""

    @abstractmethod
    def abort(self) -> None:
        """Leave nothing behind; does nothing after `close` or a first `abort`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class Store(Protocol):
    """Keys are relative to `url`, with `/` between their parts; a prefix is any beginning of a key."""

    @property
    def url(self) -> str: ...

    def check(self) -> None: ...

    def open_writer(self, key: str) -> ObjectWriter: ...

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> StoredObject: ...

    def get(self, key: str) -> bytes: ...

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]: ...

    def head(self, key: str) -> StoredObject | None: ...

    def list(self, prefix: str) -> Iterator[StoredObject]: ...

    def list_prefixes(self, prefix: str) -> Iterator[str]: ...

    def delete(self, keys: Iterable[str]) -> None: ...

    def abort_uploads(self, prefix: str, before: datetime | None = None) -> int: ...

    def has_locks(self) -> bool: ...

    def protection(self, key: str) -> Protection: ...


class StorageSettings(Protocol):
    """What `platform.Storage` says about the bucket."""

    @property
    def bucket(self) -> str: ...

    @property
    def prefix(self) -> str: ...

    @property
    def region(self) -> str | None: ...

    @property
    def kms_key(self) -> str | None: ...


def open_store(storage: str | Path | StorageSettings, connection: ConnectionInfo | None = None) -> Store:
    """Open `s3://bucket/prefix`, a directory, or the platform's storage. Connects to nothing yet."""
    if isinstance(storage, Path):
        return LocalStore(storage)
    if isinstance(storage, str):
        if not storage.startswith("s3://"):
            return LocalStore(Path(storage.removeprefix("file://")))
        bucket, _, prefix = storage.removeprefix("s3://").partition("/")
        return S3Store(bucket, prefix, connection)
    return S3Store(storage.bucket, storage.prefix, connection, storage.region, kms_key=storage.kms_key)


def _check_key(url: str, key: str) -> None:
    parts = key.split("/")
    if not key or any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise FinalError(f"store {url}: {key!r} is no object key; write non-empty names with / between them")


# --- S3 -----------------------------------------------------------------------------------------------------

FROZEN = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # storage classes that answer no GetObject
DEFAULT_KMS_KEY = "alias/aws/s3"  # the account's own: it is meant when S3 is told of no key

_clients: dict[tuple[int, str], Any] = {}
_clients_lock = threading.Lock()

_REFUSED = {
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "Forbidden",
    "Unauthorized",
    "401",
    "403",
}
_BUSY = {
    "ConditionalRequestConflict",
    "InternalError",
    "NoSuchUpload",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
_NO_LOCKS = {"ObjectLockConfigurationNotFoundError", "NotImplemented", "MethodNotAllowed", "501", "405"}
_UNDERSTOOD = {
    "aws_session_token",
    "checksum",
    "config_kwargs",
    "endpoint_url",
    "profile_name",
    "region_name",
    "service_config",
    "verify",
}


def aws_client(connection: ConnectionInfo | None, region: str | None, service: str = "s3") -> Any:
    """One client per process, service and connection; many threads may use a client, but not a session of boto3."""
    info = connection or ConnectionInfo("default")
    fields = [info.conn_id, info.login, info.password, dict(info.extra), region, service]
    identity = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()
    with _clients_lock:
        client = _clients.get((os.getpid(), identity))
        if client is None:
            client = _clients[os.getpid(), identity] = _new_client(info, region, service)
        return client


def _new_client(info: ConnectionInfo, region: str | None, service: str) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    unknown = set(info.extra) - _UNDERSTOOD
    if unknown:
        raise FinalError(
            f"connection {info.conn_id}: extra {', '.join(sorted(unknown))} is not understood here; "
            f"use {', '.join(sorted(_UNDERSTOOD))}, or leave the credentials to the default chain"
        )
    own = (info.extra.get("service_config") or {}).get(service) or {}
    endpoint = own.get("endpoint_url") or info.extra.get("endpoint_url") or None
    settings: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": 10},
        "connect_timeout": 10,
        "read_timeout": 60,
        "max_pool_connections": 32,
        "tcp_keepalive": True,
        # Sums are computed here and sent as headers: S3-compatible stores do not know boto3's trailers.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": "path" if endpoint else "auto"},
    }
    settings.update(info.extra.get("config_kwargs") or {})
    try:
        session = boto3.Session(
            aws_access_key_id=info.login or None,
            aws_secret_access_key=info.password or None,
            aws_session_token=info.extra.get("aws_session_token"),
            region_name=region or info.extra.get("region_name"),
            profile_name=info.extra.get("profile_name"),
        )
        return session.client(
            service, endpoint_url=endpoint, verify=info.extra.get("verify"), config=Config(**settings)
        )
    except (BotoCoreError, ValueError, TypeError) as error:
        raise FinalError(f"connection {info.conn_id}: no client of {service} can be made of it: {error}") from error


class S3Store:
    """A bucket, or the part of it below `prefix`.

    The connection is of Airflow's type `aws`: login and password are the access key pair (the default
    credential chain when they are absent); extra holds `endpoint_url`, `region_name`, `service_config`,
    `config_kwargs` (botocore's settings), `verify`, and `checksum`: the sum that the service checks each
    upload against, `CRC32` (default), `SHA256`, or `none` for a store that knows neither.

    With a `kms_key` (id, ARN or alias) S3 is told to encrypt each object with it (SSE-KMS); else it does as the
    bucket says.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        connection: ConnectionInfo | None = None,
        region: str | None = None,
        *,
        kms_key: str | None = None,
    ) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._connection = connection
        self._region = region
        self.encryption: dict[str, str] = {}
        if kms_key:
            self.encryption["ServerSideEncryption"] = "aws:kms"
        if kms_key and kms_key != DEFAULT_KMS_KEY:
            self.encryption["SSEKMSKeyId"] = kms_key
        self._bucket_seen = False
        checksum = str(connection.extra.get("checksum", "CRC32") if connection else "CRC32").upper()
        if checksum not in {"CRC32", "SHA256", "NONE"}:
            raise FinalError(
                f"connection {connection.conn_id if connection else 'default'}: checksum {checksum} is not "
                "known; write CRC32, SHA256 or none"
            )
        self._checksum = None if checksum == "NONE" else checksum

    def __repr__(self) -> str:
        return f"S3Store({self.url})"

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def client(self) -> Any:
        return aws_client(self._connection, self._region)

    def check(self) -> None:
        """Ask whether the bucket is there and lets us in.

        :raises StoreRefused: it is not, or does not.
        """
        with _s3_errors("look into", self, ""):
            self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)

    def open_writer(self, key: str) -> ObjectWriter:
        _check_key(self.url, key)
        return _S3Writer(self, key)

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> StoredObject:
        """Write a small object in one request.

        :raises AlreadyExists: `if_absent` and it is there.
        :raises PreconditionFailed: `if_match` and the object there has another etag, or there is none.
        """
        _check_key(self.url, key)
        sha256 = hashlib.sha256(data).hexdigest()
        condition: dict[str, str] = {}
        if if_absent:
            condition["IfNoneMatch"] = "*"
        if if_match is not None:
            condition["IfMatch"] = if_match
        with _s3_errors("write", self, key):
            try:
                answer = self.client.put_object(
                    **self.where(key),
                    Body=data,
                    Metadata={"sha256": sha256},
                    **self.encryption,
                    **self.sum_of(data),
                    **condition,
                )
            except Exception as error:
                etag = self._landed_anyway(key, data, error) if condition else None
                if etag is None:
                    raise self._condition_error(key, error, if_match) from error
                return StoredObject(key, len(data), sha256, etag, datetime.now(UTC))
        return StoredObject(key, len(data), sha256, answer["ETag"].strip('"'), datetime.now(UTC))

    def _landed_anyway(self, key: str, data: bytes, error: Exception) -> str | None:
        """The answer to the first attempt may have been lost: the retry then finds the object it made."""
        meta = getattr(error, "response", {}).get("ResponseMetadata", {})
        if _code(error) not in {"PreconditionFailed", "412"} or not meta.get("RetryAttempts"):
            return None
        answer = self.client.get_object(**self.where(key))
        return str(answer["ETag"]).strip('"') if answer["Body"].read() == data else None

    def _condition_error(self, key: str, error: Exception, if_match: str | None) -> Exception:
        code = _code(error)
        if if_match is not None and code in {"PreconditionFailed", "412", "NoSuchKey", "404"}:
            return PreconditionFailed(
                f"{self.url}/{key}: changed since it was read (expected etag {if_match}); read it again"
            )
        if code in {"PreconditionFailed", "412"}:
            return AlreadyExists(f"{self.url}/{key}: is already there and is not overwritten")
        return error

    def get(self, key: str) -> bytes:
        _check_key(self.url, key)
        return b"".join(self.read(key))

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Stream an object or a range of it; resumes a lost connection, on the same version of the object."""
        _check_key(self.url, key)
        end = None if length is None else start + length
        etag: dict[str, str] = {}
        failures = 0
        while end is None or start < end:
            span = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
            with _s3_errors("read", self, key):
                try:
                    answer = self.client.get_object(**self.where(key), **span, **etag)
                except Exception as error:
                    if _code(error) in {"InvalidRange", "416"}:
                        return
                    if etag and _code(error) in {"PreconditionFailed", "412"}:
                        raise PreconditionFailed(
                            f"{self.url}/{key}: was overwritten while it was read; read it again"
                        ) from error
                    raise
                etag = {"IfMatch": answer["ETag"]}
                try:
                    while chunk := answer["Body"].read(CHUNK):
                        start += len(chunk)
                        failures = 0
                        yield chunk
                    return
                except _lost_connection() as error:
                    failures += 1
                    if failures == 5:
                        raise
                    log.warning("%s/%s: reading broke at byte %d (%s); resuming", self.url, key, start, error)
                    time.sleep(0.1 * 2**failures)
                finally:
                    answer["Body"].close()

    def head(self, key: str) -> StoredObject | None:
        _check_key(self.url, key)
        with _s3_errors("look up", self, key):
            try:
                answer = self.client.head_object(**self.where(key))
            except Exception as error:
                if _code(error) not in {"404", "NoSuchKey", "NotFound"}:
                    raise
                if not self._bucket_seen:  # the answer to HEAD does not tell a missing bucket from a missing key
                    self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
                    self._bucket_seen = True
                return None
        return StoredObject(
            key,
            answer["ContentLength"],
            answer.get("Metadata", {}).get("sha256"),
            answer["ETag"].strip('"'),
            answer["LastModified"].astimezone(UTC),
        )

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for page in self._pages("list_objects_v2", prefix):
            for item in page.get("Contents", ()):
                yield StoredObject(
                    item["Key"][len(self.prefix) :],
                    item["Size"],
                    None,
                    item["ETag"].strip('"'),
                    item["LastModified"].astimezone(UTC),
                )

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        """The `folders` directly below a prefix that ends with `/`: whole keys with a `/` at their end."""
        for page in self._pages("list_objects_v2", prefix, Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"][len(self.prefix) :]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete what is there; absent keys are no error. Every key is tried before a failure is raised."""
        failed: list[dict[str, str]] = []
        remaining = iter(keys)
        while batch := list(islice(remaining, 1000)):
            for key in batch:
                _check_key(self.url, key)
            with _s3_errors("delete", self, batch[0]):
                answer = self.client.delete_objects(
                    Bucket=self.bucket,
                    Delete={"Objects": [{"Key": self.prefix + key} for key in batch], "Quiet": True},
                )
            failed += answer.get("Errors", ())
        if failed:
            named = ", ".join(f"{item['Key']} ({item.get('Code')})" for item in failed[:3])
            text = f"{self.url}: {len(failed)} objects were not deleted, among them {named}"
            if any(item.get("Code") in _REFUSED for item in failed):
                raise StoreRefused(f"{text}; allow s3:DeleteObject or lift the lock")
            raise StoreUnavailable(f"{text}; try again")

    def abort_uploads(self, prefix: str, before: datetime | None = None) -> int:
        """Drop the unfinished uploads under a prefix, which nobody sees but somebody pays for; how many.

        :param before: only those that were begun before.
        """
        count = 0
        for page in self._pages("list_multipart_uploads", prefix):
            for upload in page.get("Uploads", ()):
                if before is not None and upload["Initiated"] >= before:
                    continue
                with _s3_errors("abort the upload of", self, upload["Key"][len(self.prefix) :]):
                    self.client.abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                count += 1
        return count

    def has_locks(self) -> bool:
        """Whether the bucket can lock objects at all."""
        with _s3_errors("read the Object Lock configuration of", self, ""):
            try:
                answer = self.client.get_object_lock_configuration(Bucket=self.bucket)
            except Exception as error:
                if _code(error) in _NO_LOCKS:
                    return False
                raise
        return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")

    def protection(self, key: str) -> Protection:
        """:raises NotFound: there is no such object."""
        _check_key(self.url, key)
        with _s3_errors("look up", self, key):
            answer = self.client.head_object(**self.where(key))
        until = answer.get("ObjectLockRetainUntilDate")
        return Protection(
            until.astimezone(UTC) if until else None,
            answer.get("ObjectLockLegalHoldStatus") == "ON",
            answer.get("ReplicationStatus"),
        )

    def copy(self, source: str, key: str, *, if_match: str) -> None:
        """Let S3 copy an object of at most 5 GB within the bucket, and encrypt it as all that is written here.

        :param if_match: the etag of the source.
        :raises PreconditionFailed: the source has changed, or is gone.
        """
        for one in (source, key):
            _check_key(self.url, one)
        with _s3_errors("copy", self, source):
            try:
                self.client.copy_object(
                    **self.where(key), CopySource=self.where(source), CopySourceIfMatch=if_match, **self.encryption
                )
            except Exception as error:
                raise self._condition_error(source, error, if_match) from error
        there = self.head(source)  # not every S3-compatible store knows the condition
        if there is None or there.etag != if_match:
            raise PreconditionFailed(f"{self.url}/{source}: changed while it was copied (expected etag {if_match})")

    def is_frozen(self, key: str) -> bool:
        """Whether an object must be thawed before it can be read: its storage class is one of archives.

        :raises NotFound: there is no such object.
        """
        _check_key(self.url, key)
        with _s3_errors("look up", self, key):
            answer = self.client.head_object(**self.where(key))
        return answer.get("StorageClass") in FROZEN and 'ongoing-request="false"' not in answer.get("Restore", "")

    def thaw(self, key: str, days: int) -> None:
        """Ask S3 to make a frozen object readable for so many days; that takes hours. Asking again is no error."""
        _check_key(self.url, key)
        with _s3_errors("thaw", self, key):
            try:
                self.client.restore_object(
                    **self.where(key), RestoreRequest={"Days": days, "GlacierJobParameters": {"Tier": "Bulk"}}
                )
            except Exception as error:
                if _code(error) != "RestoreAlreadyInProgress":
                    raise

    def lifecycle(self) -> dict[str, Any]:
        """The bucket's lifecycle configuration, as S3 answers it; no rules when there is none."""
        with _s3_errors("read the lifecycle of", self, ""):
            try:
                answer = self.client.get_bucket_lifecycle_configuration(Bucket=self.bucket)
            except Exception as error:
                if _code(error) == "NoSuchLifecycleConfiguration":
                    return {"Rules": []}
                raise
        return {name: answer[name] for name in ("Rules", "TransitionDefaultMinimumObjectSize") if name in answer}

    def set_lifecycle(self, configuration: dict[str, Any]) -> None:
        """Replace the whole configuration by another one of the form that `lifecycle` gives."""
        more = {name: value for name, value in configuration.items() if name != "Rules"}
        with _s3_errors("write the lifecycle of", self, ""):
            self.client.put_bucket_lifecycle_configuration(
                Bucket=self.bucket, LifecycleConfiguration={"Rules": configuration["Rules"]}, **more
            )

    def _pages(self, operation: str, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        pages = iter(
            self.client.get_paginator(operation).paginate(Bucket=self.bucket, Prefix=self.prefix + prefix, **options)
        )
        while True:
            with _s3_errors("list", self, prefix):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def where(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    def sum_of(self, data: bytes | bytearray) -> dict[str, str]:
        if self._checksum is None:
            return {}
        raw = zlib.crc32(data).to_bytes(4, "big") if self._checksum == "CRC32" else hashlib.sha256(data).digest()
        return {f"Checksum{self._checksum}": base64.b64encode(raw).decode()}

    @property
    def sum_algorithm(self) -> dict[str, str]:
        return {} if self._checksum is None else {"ChecksumAlgorithm": self._checksum}


def part_size(number: int) -> int:
    """Bytes of part 1, 2, ...: 8 MiB up to 40 GB of one object, then doubling: 5 TiB fit in 10,000 parts."""
    return PART << min(9, max(0, (number - 5001) // 500 + 1))


class _S3Writer(ObjectWriter):
    """Fills one part while at most two others travel: three parts of memory, 24 MiB up to 40 GB of object."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store = store
        self._key = key
        self._hash = hashlib.sha256()
        self._size = 0
        self._buffer = bytearray()
        self._filled = 0
        self._upload: str | None = None
        self._parts: list[Future[dict[str, Any]]] = []
        self._spare: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._flying = threading.Semaphore(2)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="s3-part")  # starts its threads when needed
        self._failure: BaseException | None = None
        self._done: StoredObject | None = None
        self._aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._done is not None or self._aborted:
            raise ValueError(f"{self._store.url}/{self._key}: write after close or abort")
        self._raise_failure()
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._size += len(view)
        while view:
            room = part_size(len(self._parts) + 1) - self._filled
            taken = view[:room]
            end = self._filled + len(taken)
            self._buffer[self._filled : end] = taken
            self._filled = end
            view = view[len(taken) :]
            if len(taken) == room:
                self._send_part()

    def _send_part(self) -> None:
        if self._upload is None:
            with _s3_errors("start an upload of", self._store, self._key):
                answer = self._store.client.create_multipart_upload(
                    **self._store.where(self._key), **self._store.encryption, **self._store.sum_algorithm
                )
            self._upload = answer["UploadId"]
        self._flying.acquire()
        part, self._filled = self._buffer, 0
        self._parts.append(self._pool.submit(self._upload_part, len(self._parts) + 1, part))
        try:
            self._buffer = self._spare.get_nowait()
        except queue.Empty:
            self._buffer = bytearray()

    def _upload_part(self, number: int, part: bytearray) -> dict[str, Any]:
        try:
            if self._failure is not None:
                return {}
            sums = self._store.sum_of(part)
            with _s3_errors(f"upload part {number} of", self._store, self._key):
                answer = self._store.client.upload_part(
                    **self._store.where(self._key),
                    UploadId=self._upload,
                    PartNumber=number,
                    Body=part,
                    **sums,
                )
            return {"PartNumber": number, "ETag": answer["ETag"], **sums}
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            self._spare.put(part)
            self._flying.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self.abort()
            raise self._failure

    def close(self) -> StoredObject:
        if self._done is not None:
            return self._done
        if self._aborted:
            raise ValueError(f"{self._store.url}/{self._key}: close after abort")
        sha256 = self._hash.hexdigest()
        try:
            del self._buffer[self._filled :]
            etag = self._put() if self._upload is None else self._complete()
        except BaseException:
            self.abort()
            raise
        self._done = StoredObject(self._key, self._size, sha256, etag, datetime.now(UTC))
        return self._done

    def _put(self) -> str:
        return str(self._store.put(self._key, bytes(self._buffer)).etag)

    def _complete(self) -> str:
        if self._filled:
            self._send_part()
        self._pool.shutdown()
        self._raise_failure()
        parts = [part.result() for part in self._parts]
        with _s3_errors("finish the upload of", self._store, self._key):
            answer = self._store.client.complete_multipart_upload(
                **self._store.where(self._key), UploadId=self._upload, MultipartUpload={"Parts": parts}
            )
        return str(answer["ETag"]).strip('"')

    def abort(self) -> None:
        if self._done is not None or self._aborted:
            return
        self._aborted = True
        self._buffer = bytearray()
        if self._upload is None:
            return
        self._failure = self._failure or FinalError(f"{self._store.url}/{self._key}: upload aborted")
        self._pool.shutdown()
        try:
            self._store.client.abort_multipart_upload(**self._store.where(self._key), UploadId=self._upload)
        except Exception as error:
            if _code(error) != "NoSuchUpload":
                log.warning(
                    "%s/%s: unfinished upload %s could not be dropped (%s); the next run here will do it",
                    self._store.url,
                    self._key,
                    self._upload,
                    error,
                )


def _code(error: Exception) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _lost_connection() -> tuple[type[Exception], ...]:
    from botocore import exceptions as boto
    from urllib3.exceptions import HTTPError

    return (
        boto.ConnectionError,
        boto.HTTPClientError,
        boto.IncompleteReadError,
        boto.ResponseStreamingError,
        HTTPError,
        OSError,
    )


@contextlib.contextmanager
def _s3_errors(action: str, store: S3Store, key: str) -> Iterator[None]:
    try:
        yield
    except (DbopsError, GeneratorExit):
        raise
    except Exception as error:
        raise _translated(f"{action} {store.url}/{key}", store, error) from error


def _translated(what: str, store: S3Store, error: Exception) -> Exception:
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    if isinstance(error, ClientError):
        code = _code(error)
        meta = error.response.get("ResponseMetadata", {})
        status = meta.get("HTTPStatusCode", 0)
        text = error.response.get("Error", {}).get("Message") or ""
        found = f"{code} {text}".strip()
        tries = meta.get("RetryAttempts", 0) + 1
        if code == "NoSuchBucket":
            return StoreRefused(f"{what}: bucket {store.bucket} does not exist; create it or correct `storage`")
        if code in _REFUSED:
            return StoreRefused(
                f"{what}: bucket {store.bucket} refused it ({found}); check the connection's credentials "
                "and the rights on the bucket"
            )
        if code.startswith("KMS.") and status < 500:
            return StoreRefused(
                f"{what}: the KMS key refused it ({found}); check `storage.kms_key`, the key's state, and the rights "
                "kms:GenerateDataKey and kms:Decrypt on it"
            )
        if code in {"NoSuchKey", "404"}:
            return NotFound(f"{what}: there is no such object")
        if code in _BUSY or status >= 500:
            return StoreUnavailable(f"{what}: {found} after {tries} attempts; try again, it may be overloaded")
        return FinalError(f"{what}: the store refused the request ({found}, HTTP {status})")
    if isinstance(error, NoCredentialsError):
        return StoreRefused(f"{what}: no credentials were found; set them in the connection or the environment")
    if isinstance(error, _lost_connection()):
        return StoreUnavailable(
            f"{what}: no answer ({type(error).__name__}: {error}); check network and endpoint, then try again"
        )
    if isinstance(error, BotoCoreError):
        return FinalError(f"{what}: {error}")
    return error


# --- local directory ----------------------------------------------------------------------------------------

_LOCK = ".lock"


class LocalStore:
    """A directory on a disk of this machine. Names with a dot in front are its own: temporary files, lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    def __repr__(self) -> str:
        return f"LocalStore({self.url})"

    @property
    def url(self) -> str:
        return str(self.directory)

    def check(self) -> None:
        """Make the directory when it is not there, and see whether it can be written to.

        :raises StoreRefused: it cannot.
        """
        try:
            _make_directory(self.directory)
            with self.locked():
                pass
        except OSError as error:
            raise _local_error("write to", self.directory / _LOCK, error) from error

    def open_writer(self, key: str) -> ObjectWriter:
        return _LocalWriter(self, key)

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> StoredObject:
        """Write a small object; conditions as in S3."""
        writer = _LocalWriter(self, key, if_absent=if_absent, if_match=if_match)
        with writer:
            writer.write(data)
        return writer.close()

    def get(self, key: str) -> bytes:
        return b"".join(self.read(key))

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        path = self.path(key)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                left = length
                while left is None or left > 0:
                    chunk = file.read(CHUNK if left is None else min(CHUNK, left))
                    if not chunk:
                        return
                    left = None if left is None else left - len(chunk)
                    yield chunk
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFound(f"read {path}: there is no such object") from None
        except OSError as error:
            raise _local_error("read", path, error) from error

    def head(self, key: str) -> StoredObject | None:
        path = self.path(key)
        try:
            return None if path.is_dir() else _describe(key, path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _local_error("look up", path, error) from error

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for path in self._walk(prefix):
            key = path.relative_to(self.directory).as_posix()
            if key.startswith(prefix) and not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    yield _describe(key, path)

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        """The `folders` directly below a prefix that ends with `/`: whole keys with a `/` at their end."""
        parent, _, beginning = prefix.rpartition("/")
        folder = self.directory / parent
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                key = f"{path.relative_to(self.directory).as_posix()}/"
                if path.name.startswith(beginning) and next(self.list(key), None) is not None:
                    yield key

    def delete(self, keys: Iterable[str]) -> None:
        """Delete what is there, and directories that become empty; keys that are not there are no error."""
        for key in keys:
            path = self.path(key)
            try:
                path.unlink(missing_ok=True)
                for parent in path.parents:
                    if parent == self.directory:
                        break
                    with contextlib.suppress(FileNotFoundError):
                        parent.rmdir()
            except NotADirectoryError:
                continue
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise _local_error("delete", path, error) from error

    def abort_uploads(self, prefix: str, before: datetime | None = None) -> int:
        """Remove the temporary files that killed writers left under a prefix; how many there were.

        :param before: only those that were last written to before.
        """
        count = 0
        for path in self._walk(prefix):
            if path.name.startswith(".") and path.name.endswith(".part"):
                parent = path.parent.relative_to(self.directory).as_posix()
                key = path.name[1:-22] if parent == "." else f"{parent}/{path.name[1:-22]}"
                if key.startswith(prefix) and (before is None or _written_before(path, before)):
                    path.unlink(missing_ok=True)
                    count += 1
        return count

    def has_locks(self) -> bool:
        """Never: a directory locks nothing."""
        return False

    def protection(self, key: str) -> Protection:
        """None at all."""
        return Protection()

    def _walk(self, prefix: str) -> Iterator[Path]:
        def refuse(error: OSError) -> None:
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                raise _local_error("list", Path(error.filename), error) from error

        for folder, folders, names in os.walk(self.directory / prefix.rpartition("/")[0], onerror=refuse):
            folders.sort()
            for name in sorted(names):
                yield Path(folder, name)

    def path(self, key: str) -> Path:
        _check_key(self.url, key)
        if any(part.startswith(".") for part in key.split("/")):
            raise FinalError(f"store {self.url}: {key!r}: names must not begin with a dot in a local directory")
        return self.directory / key

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time with a condition on what is there, over all processes of this machine."""
        with (self.directory / _LOCK).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class _LocalWriter(ObjectWriter):
    def __init__(self, store: LocalStore, key: str, *, if_absent: bool = False, if_match: str | None = None) -> None:
        self._store = store
        self._key = key
        self._path = store.path(key)
        self._if_absent = if_absent
        self._if_match = if_match
        self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}.part")
        self._hash = hashlib.sha256()
        self._size = 0
        self._done: StoredObject | None = None
        self._aborted = False
        try:
            self._file = self._create()
        except OSError as error:
            raise _local_error("create", self._path, error) from error

    def _create(self) -> FileIO:
        for _ in range(10):  # a deletion may remove the directory, empty as yet, that was just made
            _make_directory(self._path.parent)
            with contextlib.suppress(FileNotFoundError):
                return FileIO(self._temporary, "xb")
        return FileIO(self._temporary, "xb")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._done is not None or self._aborted:
            raise ValueError(f"{self._path}: write after close or abort")
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._size += len(view)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self.abort()
            raise _local_error("write", self._path, error) from error

    def close(self) -> StoredObject:
        if self._done is not None:
            return self._done
        if self._aborted:
            raise ValueError(f"{self._path}: close after abort")
        try:
            self._done = self._place()
        except OSError as error:
            self.abort()
            raise _local_error("finish", self._path, error) from error
        except BaseException:
            self.abort()
            raise
        return self._done

    def _place(self) -> StoredObject:
        now = time.time_ns()  # finer than the file system's clock, so that the etag tells two versions apart
        os.utime(self._file.fileno(), ns=(now, now))
        os.fsync(self._file.fileno())
        self._file.close()
        with contextlib.ExitStack() as held:
            if self._if_absent or self._if_match is not None:
                held.enter_context(self._store.locked())
            if self._if_absent:
                try:
                    os.link(self._temporary, self._path)
                except FileExistsError:
                    raise AlreadyExists(f"{self._path}: is already there and is not overwritten") from None
                self._temporary.unlink()
            else:
                if self._if_match is not None:
                    there = self._store.head(self._key)
                    if there is None or there.etag != self._if_match:
                        raise PreconditionFailed(
                            f"{self._path}: changed since it was read (expected etag {self._if_match}); read it again"
                        )
                self._temporary.rename(self._path)
            there = _describe(self._key, self._path)
        _sync_directory(self._path.parent)
        return StoredObject(self._key, self._size, self._hash.hexdigest(), there.etag, there.modified_at)

    def abort(self) -> None:
        if self._done is not None or self._aborted:
            return
        self._aborted = True
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _describe(key: str, path: Path) -> StoredObject:
    stat = path.stat()
    etag = f"{stat.st_mtime_ns:x}-{stat.st_ino:x}-{stat.st_size:x}"
    return StoredObject(key, stat.st_size, None, etag, datetime.fromtimestamp(stat.st_mtime, UTC))


def _written_before(path: Path, moment: datetime) -> bool:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC) < moment
    except FileNotFoundError:  # its writer has finished
        return False


def _make_directory(path: Path) -> None:
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _sync_directory(folder.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _local_error(action: str, path: Path, error: OSError) -> DbopsError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        folder = next((folder for folder in path.parents if folder.exists()), path)
        free = shutil.disk_usage(folder).free
        return StoreRefused(
            f"{action} {path}: {error.strerror} ({free / 1e6:.1f} MB are free at {folder}); make room "
            "or choose another target"
        )
    return StoreRefused(f"{action} {path}: {error.strerror or error}; check the directory and its rights")
