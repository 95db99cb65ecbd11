"""What AWS says of the jobs of a pipeline: runs of Glue, the rule of EventBridge that starts them. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dbops.backups.store import aws_client
from dbops.connections import ConnectionInfo
from dbops.errors import DbopsError, FinalError, RetryableError
from dbops.platform.etl import HOUR, Pipeline
from dbops.redact import redact

POLICY = "include/iam/etl-policy.json"
SUCCEEDED = "SUCCEEDED"
ENDED_BADLY = frozenset({"FAILED", "ERROR", "TIMEOUT", "STOPPED", "EXPIRED"})
LONGEST_ERROR = 500
PAGE = 200  # the most that Glue gives at once
GLUE_KEEPS = timedelta(days=90)

_REFUSED = {
    "AccessDenied", "AccessDeniedException", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId",
    "InvalidSignatureException", "MissingAuthenticationToken", "UnrecognizedClientException",
}  # fmt: skip
_BUSY = {
    "ConcurrentRunsExceededException", "InternalException", "InternalFailure", "InternalServiceException",
    "OperationTimeoutException", "RequestTimeout", "ServiceUnavailable", "Throttling", "ThrottlingException",
    "TooManyRequestsException",
}  # fmt: skip
_MISSING = {"EntityNotFoundException", "ResourceNotFoundException"}


class JobsUnreachable(RetryableError):
    """No answer, or one that says to come back later."""


class JobsRefused(FinalError):
    """AWS does not let us, or does not take what was asked for."""


class NotThere(FinalError):
    """There is no such job or rule."""


@dataclass(frozen=True)
class JobRun:
    """A run of a Glue job."""

    id: str
    state: str
    started_at: datetime
    ended_at: datetime | None
    seconds: int
    error: str | None
    """What Glue says went wrong; secrets masked."""
    argument: str | None
    """What the argument says that tells the hour."""

    @property
    def is_over(self) -> bool:
        return self.state == SUCCEEDED or self.state in ENDED_BADLY

    def hour(self) -> datetime:
        """The hour that it is for: what its argument says, else the one that ended before it started."""
        try:
            told = datetime.fromisoformat(self.argument or "")
        except ValueError:
            return floor_hour(self.started_at) - HOUR
        return floor_hour(told if told.tzinfo is not None else told.replace(tzinfo=UTC))


@dataclass(frozen=True)
class Rule:
    """A rule of EventBridge."""

    name: str
    is_enabled: bool
    schedule: str | None
    targets: int


def floor_hour(moment: datetime) -> datetime:
    """The beginning of its hour, UTC: days of a clock change have 24 of them like any other."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


class Jobs:
    """Glue and EventBridge of one account and region."""

    def __init__(self, connection: ConnectionInfo, region: str) -> None:
        self._connection, self._region = connection, region
        self._runs: dict[str, tuple[datetime, list[JobRun]]] = {}
        self._failed: dict[str, DbopsError] = {}

    def runs(self, pipeline: Pipeline, since: datetime) -> list[JobRun]:
        """Runs of the pipeline's job that started since a moment, the newest first.

        What was listed is not listed again, and what could not be is not tried again: that was done with patience.

        :raises JobsUnreachable, JobsRefused, NotThere: they could not be listed.
        """
        if pipeline.job in self._failed:
            raise self._failed[pipeline.job]
        known = self._runs.get(pipeline.job)
        if known is None or known[0] > since:
            try:
                known = self._runs[pipeline.job] = (since, list(self._listed(pipeline, since)))
            except DbopsError as error:
                self._failed[pipeline.job] = error
                raise
        return [run for run in known[1] if run.started_at >= since]

    def _listed(self, pipeline: Pipeline, since: datetime) -> Iterator[JobRun]:
        hidden = (self._connection.login, self._connection.password)
        with _calls(f"list runs of Glue job {pipeline.job}"):
            client: Any = aws_client(self._connection, self._region, "glue")
            more: dict[str, str] = {}
            while True:
                page = client.get_job_runs(JobName=pipeline.job, MaxResults=PAGE, **more)
                for found in page["JobRuns"]:  # Glue promises the newest first
                    run = _run(found, pipeline.hour_argument, hidden)
                    if run.started_at < since:
                        return
                    yield run
                if not page.get("NextToken"):
                    return
                more = {"NextToken": page["NextToken"]}

    def rule(self, name: str) -> Rule:
        """:raises JobsUnreachable, JobsRefused, NotThere: it could not be looked at."""
        with _calls(f"describe EventBridge rule {name}"):
            client: Any = aws_client(self._connection, self._region, "events")
            found = client.describe_rule(Name=name)
            targets = client.list_targets_by_rule(Rule=name)["Targets"]
        return Rule(name, found.get("State") != "DISABLED", found.get("ScheduleExpression"), len(targets))


def _run(found: dict[str, Any], argument: str | None, hidden: Sequence[str | None]) -> JobRun:
    error = found.get("ErrorMessage")
    ended = found.get("CompletedOn")
    return JobRun(
        id=found["Id"],
        state=found["JobRunState"],
        started_at=found["StartedOn"].astimezone(UTC),
        ended_at=ended.astimezone(UTC) if ended else None,
        seconds=int(found.get("ExecutionTime") or 0),
        error=_shortened(redact(error, hidden)) if error else None,
        argument=found.get("Arguments", {}).get(argument) if argument else None,
    )


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 2] + " …"


@contextmanager
def _calls(what: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        found = error.response.get("Error", {})
        code, message = str(found.get("Code", "")), str(found.get("Message", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = f"{what}: {message or code} ({code})"
        if code in _MISSING:
            raise NotThere(said) from None
        if code in _REFUSED or status in (401, 403):
            raise JobsRefused(f"{said}; compare the rights of the connection with {POLICY}") from None
        if code in _BUSY or status >= 500:
            raise JobsUnreachable(f"{said}; it is asked again with the next run") from None
        raise JobsRefused(said) from None
    except BotoCoreError as error:
        raise JobsUnreachable(
            f"{what}: no answer of AWS: {error}; check endpoint and network of the connection"
        ) from None
