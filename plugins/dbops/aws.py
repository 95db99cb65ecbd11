"""Calls of the API of AWS: their errors in words, names that a retry finds again, tags of ownership."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dbops.errors import FinalError, RetryableError

PLATFORM_TAG, RUN_TAG, REASON_TAG = "dbops-platform", "dbops-run", "dbops-reason"
LONGEST_TAG = 256

_BUSY = {
    "InternalFailure",
    "InternalServerException",
    "PriorRequestNotComplete",
    "InsufficientClusterCapacity",
    "InsufficientCapacityException",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    # The cluster or instance is modified, resized or restored just now.
    "ConflictException",
    "InvalidClusterState",
    "InvalidClusterSnapshotState",
    "InsufficientDBInstanceCapacity",
    "InvalidDBInstanceState",
    "InvalidDBSnapshotState",
}
_REFUSED = {
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "SignatureDoesNotMatch",
    "UnauthorizedOperation",
    "UnrecognizedClientException",
}
_MISSING = {
    "ClusterNotFound",
    "ClusterSnapshotNotFound",
    "DBInstanceNotFound",
    "DBInstanceNotFoundFault",
    "DBSnapshotNotFound",
    "DBSnapshotNotFoundFault",
    "NoSuchChange",
    "NoSuchHostedZone",
    "ResourceNotFoundException",
    "ResourceNotFoundFault",
}
_EXISTS = {
    "ClusterAlreadyExists",
    "ClusterSnapshotAlreadyExists",
    "DBInstanceAlreadyExists",
    "DBSnapshotAlreadyExists",
}


class ApiUnreachable(RetryableError):
    """No answer, or one that says to come back later."""


class ApiRefused(FinalError):
    """AWS does not let us, or does not take what was asked for."""


class NotThere(FinalError):
    """What was named does not exist."""


class TakenName(FinalError):
    """Something of that name exists already."""


@contextmanager
def calls(what: str, policy: str) -> Iterator[None]:
    """Turn botocore's errors into ours.

    :param what: what is attempted on what: `describe cluster bedrock`.
    :param policy: the file in include/iam that says which rights that needs.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        found = error.response.get("Error", {})
        code, message = str(found.get("Code", "")), str(found.get("Message", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = f"{what}: {message or code} ({code})"
        # Serverless answers ConflictException both for a name that is taken and for a namespace that is busy.
        if code in _EXISTS or (code == "ConflictException" and "already exist" in message.lower()):
            raise TakenName(said) from None
        if code in _MISSING:
            raise NotThere(said) from None
        if code in _REFUSED or status in (401, 403):
            raise ApiRefused(f"{said}; compare the rights of the connection with {policy}") from None
        if code in _BUSY or status >= 500:
            raise ApiUnreachable(said) from None
        raise ApiRefused(said) from None
    except BotoCoreError as error:
        raise ApiUnreachable(
            f"{what}: no answer of AWS: {error}; check endpoint and network of the connection"
        ) from None


def name_of(run: str, *parts: str, longest: int = 63) -> str:
    """A name that the same run always gets: `dbops-bedrock-weekly-1a2b3c4d5e`.

    Lower case letters, digits and single hyphens, as the identifiers of Redshift and RDS take them.

    :param run: `<dag id>/<run id>`; any text.
    """
    digest = hashlib.sha256("\0".join([run, *parts]).encode()).hexdigest()[:10]
    head = re.sub(r"[^a-z0-9]+", "-", "-".join(["dbops", *parts]).lower()).strip("-")
    return f"{head[: longest - 11].rstrip('-')}-{digest}"


def tags_of(platform: str, run: str, reason: str) -> dict[str, str]:
    """The tags of what this package makes."""
    return {PLATFORM_TAG: platform, RUN_TAG: tag_value(run), REASON_TAG: tag_value(reason)}


def tag_value(text: str) -> str:
    """What AWS takes of a text as a tag's value."""
    return re.sub(r"[^\w .:/=+@-]", " ", text, flags=re.ASCII)[:LONGEST_TAG].strip()


def as_list(tags: Mapping[str, str], *, lower: bool = False) -> list[dict[str, str]]:
    """Tags as the API takes them; Serverless writes `key` where the other writes `Key`."""
    key, value = ("key", "value") if lower else ("Key", "Value")
    return [{key: name, value: text} for name, text in tags.items()]


def as_dict(tags: list[Mapping[str, str]] | None) -> dict[str, str]:
    found = {}
    for tag in tags or ():
        words = {name.lower(): text for name, text in tag.items()}
        found[words["key"]] = words.get("value", "")
    return found
