"""The part of a platform file that describes how its PostgreSQL instance is brought back to a moment."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from dbops.platform.fields import ConnectionId, Duration, Model, Name, Whole, unique
from dbops.platform.postgres_backup import DatabaseName
from dbops.platform.redshift import TableName

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
KubernetesName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$", max_length=63)]
DomainName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}(\.{_LABEL})+$", max_length=253)]


def _select(value: str) -> str:
    words = value.strip().rstrip(";").split(None, 1)
    if not words or words[0].lower() not in {"select", "with", "table", "values"} or ";" in value.strip().rstrip(";"):
        raise ValueError("is no query; write one SELECT that answers with one value")
    return value.strip().rstrip(";")


class ValidationQuery(Model):
    """A query of the new instance that answers with one number, and what it must be."""

    name: Name
    database: DatabaseName
    query: Annotated[str, AfterValidator(_select)]
    at_least: Annotated[float, Field(strict=True, allow_inf_nan=False)] | None = None
    at_most: Annotated[float, Field(strict=True, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _limits(self) -> ValidationQuery:
        if self.at_least is None and self.at_most is None:
            raise ValueError("says not what it must be: give at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_most < self.at_least:
            raise ValueError("nothing lies between at_least and at_most")
        return self


class ComparedTable(Model):
    """A table that is compared between the new instance and the damaged one, row by row where they differ."""

    database: DatabaseName
    table: TableName

    @property
    def name(self) -> str:
        return f"{self.database}/{self.table}"


class DnsRecord(Model):
    """The CNAME that the applications connect to."""

    name: DomainName
    zone: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,32}$")] | None = None
    """Id of the hosted zone in Route 53. None: the one whose name fits best, if only one does."""
    nameserver: ConnectionId | None = None
    """A connection whose host (an IP address) and port are those of the nameserver that is asked whether the change has
    arrived, and for addresses of instances. None: what the machine asks."""
    timeout: Duration = timedelta(minutes=10)
    """Longest that the change may take to arrive, its TTL not counted."""


class Deployment(Model):
    """A deployment that has sessions with the database, and must be restarted to follow the CNAME."""

    name: KubernetesName
    application: Annotated[str, StringConstraints(min_length=1, max_length=63)] | None = None
    """How its sessions begin in `application_name`; None: with its name."""
    sessions: Annotated[Whole, Field(ge=0)] = 1
    """So many must be on the new instance afterwards. 0: it connects on demand only."""

    @property
    def begins(self) -> str:
        return self.application or self.name


class Kubernetes(Model):
    connection: ConnectionId = "dbops_kubernetes"
    """Type http: address of the API server in its host, a token in its password, extra `ca_file`."""
    namespace: KubernetesName
    deployments: Annotated[tuple[Deployment, ...], unique("deployment"), Field(min_length=1)]
    timeout: Duration = timedelta(minutes=15)
    """Longest that the rollout of all of them may take."""


class PostgresRecovery(Model):
    """What `postgres_recovery` makes, checks, switches and restarts."""

    connection: ConnectionId = "dbops_postgres_recovery"
    """A role with pg_monitor that may read `tables`; host and port are those of the instance that is looked at."""
    restore_timeout: Duration = timedelta(hours=3)
    """An instance that is not available by then has failed."""
    poll: Duration = timedelta(seconds=15)
    """How long a step that waits lets pass before it looks again."""
    validations: Annotated[tuple[ValidationQuery, ...], unique("validation"), Field(min_length=1)]
    tables: tuple[ComparedTable, ...] = ()
    """Compared with the damaged instance; each is read once on both."""
    query_timeout: Duration = timedelta(minutes=10)
    """Longest that one query of a validation or comparison may take: a restored volume is slow at first."""
    approval_timeout: Duration = timedelta(hours=4)
    """So long a person has to look at the findings; then nothing is switched."""
    record: DnsRecord
    kubernetes: Kubernetes | None = None
    """None: no deployments follow; restart what connects by hand."""
    sessions_timeout: Duration = timedelta(minutes=5)
    """By then the deployments' sessions must be on the new instance."""

    @field_validator("tables")
    @classmethod
    def _once(cls, value: tuple[ComparedTable, ...]) -> tuple[ComparedTable, ...]:
        names = [table.name for table in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names {', '.join(twice)} more than once")
        return value
