"""Calls of the AWS API of Redshift."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from dbops import aws
from dbops.aws import (
    PLATFORM_TAG,
    REASON_TAG,
    RUN_TAG,
    ApiRefused,
    ApiUnreachable,
    NotThere,
    TakenName,
    as_dict,
    as_list,
    name_of,
    tag_value,
    tags_of,
)
from dbops.backups.store import aws_client
from dbops.connections import ConnectionInfo

__all__ = [
    "PLATFORM_TAG", "POLICY", "REASON_TAG", "RUN_TAG", "ApiRefused", "ApiUnreachable", "NotThere", "TakenName",
    "as_dict", "as_list", "calls", "name_of", "redshift_client", "tag_value", "tags_of",
]  # fmt: skip

POLICY = "include/iam/redshift-policy.json"


def calls(what: str) -> AbstractContextManager[None]:
    """As `dbops.aws.calls`.

    :param what: what is attempted on what: `describe cluster bedrock`.
    """
    return aws.calls(what, POLICY)


def redshift_client(connection: ConnectionInfo, region: str, *, serverless: bool) -> Any:
    """The client of `redshift`, or of `redshift-serverless`."""
    return aws_client(connection, region, "redshift-serverless" if serverless else "redshift")
