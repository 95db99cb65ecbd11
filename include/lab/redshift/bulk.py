"""What COPY and UNLOAD share: how they fail, what they know of their session, and S3 addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError


class RedshiftError(Exception):
    """A statement fails as on Redshift: SQLSTATE, text, and the number that Redshift shows in its detail."""

    def __init__(self, message: str, *, code: str = "XX000", number: int = 8001, context: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.number = number
        self.context = context

    def detail(self, query_id: int) -> str:
        """The block that Redshift sends as DETAIL of an internal error (XX000)."""
        if self.code != "XX000":
            return ""
        rule = "  -----------------------------------------------"
        return (
            f"\n{rule}\n  error:  {self.message}\n  code:      {self.number}\n"
            f"  context:   {self.context}\n  query:     {query_id}\n{rule}\n"
        )


@dataclass
class Session:
    """The client's session, as far as COPY and UNLOAD ask.

    :param slices: files that a parallel UNLOAD writes; 2 is a cluster with one small node.
    :param translate: a SELECT of Redshift into PostgreSQL's.
    :param faults: what a test breaks: `unload_slice` n makes an UNLOAD fail when slice n writes its file.
    """

    user: str
    query_id: int
    slices: int = 2
    translate: Callable[[str], str] = str
    faults: Mapping[str, Any] = field(default_factory=dict)


def now() -> datetime:
    return datetime.now(UTC)


def identifier(name: str) -> str:
    """The name, quoted for PostgreSQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """The text as a literal of PostgreSQL, whatever its session's settings."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def s3_error(error: ClientError | BotoCoreError) -> RedshiftError:
    """S3's answer in the words of Redshift."""
    if not isinstance(error, ClientError):
        return RedshiftError(f"S3ServiceException:{error}", number=8001)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    request = error.response.get("ResponseMetadata", {}).get("RequestId", "")
    reason, text = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
    retry = int(status >= 500)
    return RedshiftError(
        f"S3ServiceException:{text},Status {status},Error {reason},Rid {request},CanRetry {retry}", number=8001
    )


@dataclass(frozen=True)
class S3Object:
    bucket: str
    key: str
    size: int

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def list_objects(s3: Any, bucket: str, prefix: str) -> Iterator[S3Object]:
    """All objects whose key starts with the prefix, in S3's order."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            yield S3Object(bucket, entry["Key"], entry["Size"])
