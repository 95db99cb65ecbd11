"""What COPY and UNLOAD share: how they fail, what they know of their session, and S3 addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from dbops_lab.redshift.errors import BackendError


class InternalError(BackendError):
    """XX000 with the number, and what else Redshift shows in the detail of such an error."""

    def __init__(self, message: str, *, number: int = 8001, context: str = "") -> None:
        super().__init__("XX000", message)
        self.number = number
        self.context = context


def detail(error: BackendError, query_id: int) -> str:
    """The block that Redshift sends as DETAIL of an internal error."""
    if not isinstance(error, InternalError):
        return error.detail
    rule = "  -----------------------------------------------"
    return (
        f"\n{rule}\n  error:  {error.message}\n  code:      {error.number}\n"
        f"  context:   {error.context}\n  query:     {query_id}\n{rule}\n"
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


def text_literal(text: str) -> str:
    """The text as a literal of PostgreSQL, whatever its session's settings."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def s3_error(error: ClientError | BotoCoreError) -> InternalError:
    """S3's answer in the words of Redshift."""
    if not isinstance(error, ClientError):
        return InternalError(f"S3ServiceException:{error}")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    request = error.response.get("ResponseMetadata", {}).get("RequestId", "")
    reason, text = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
    retry = int(status >= 500)
    return InternalError(f"S3ServiceException:{text},Status {status},Error {reason},Rid {request},CanRetry {retry}")


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
