"""The daily look at a warehouse: statements, queues, CPU, disk, loads, open transactions, storage, use of tables.

Each check is a value against a limit, or an error: what could not be looked at is never well. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dbops.errors import DbopsError
from dbops.platform import Limit, Platform, Redshift, Severity, duration_text
from dbops.redshift.cloudwatch import CloudWatch, Metric
from dbops.redshift.session import Session
from dbops.redshift.views import (
    NoInsight,
    moment,
    naive,
    open_transactions,
    read,
    session_facts,
    table_figures,
)

QUERIES, QUEUES, FAILED = "redshift_queries", "redshift_queues", "redshift_failed_queries"
CPU, DISK, LOADS, TRANSACTIONS = "redshift_cpu", "redshift_disk", "redshift_loads", "redshift_transactions"
STORAGE, USE = "redshift_storage", "redshift_table_use"
"""Names of the checks, in the ledger and in incidents."""

LEAST_FAILED = 5
"""A share of very few statements says nothing."""
LARGEST_TABLES = 200
"""Whose size the ledger keeps."""
LONGEST_LOOK_BACK = timedelta(days=7)
"""Redshift keeps its history about that long."""


@dataclass(frozen=True)
class Check:
    """What one look found."""

    name: str
    ok: bool
    message: str
    severity: Severity | None = None
    """Of the incident; None when it is well."""
    value: float | None = None
    limit: float | None = None
    unit: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    error: DbopsError | None = None
    """It could not be looked at."""


@dataclass(frozen=True)
class Look:
    """What the checks of one run share."""

    session: Session
    platform: Platform
    redshift: Redshift
    since: datetime
    now: datetime
    cloudwatch: CloudWatch | None = None


def look_back(now: datetime, last: datetime | None) -> datetime:
    """Since when to look: a day, or since the last look, so that a run that was missed leaves no hole."""
    day = now - timedelta(days=1)
    return day if last is None else max(min(last, day), now - LONGEST_LOOK_BACK)


def check_health(look: Look) -> list[Check]:
    """Every check; one that cannot look does not keep the others from it."""
    checks: dict[str, Callable[[Look], Check]] = {
        QUERIES: check_queries,
        QUEUES: check_queues,
        FAILED: check_failed,
        CPU: check_cpu,
        DISK: check_disk,
        LOADS: check_loads,
        TRANSACTIONS: check_transactions,
        STORAGE: check_storage,
        USE: record_use,
    }
    return [_tried(name, check, look) for name, check in checks.items()]


def _tried(name: str, check: Callable[[Look], Check], look: Look) -> Check:
    try:
        return check(look)
    except DbopsError as error:
        return Check(name, False, f"could not look: {error}", Severity.WARNING, error=error)


# --- statements ---------------------------------------------------------------------------------------------


def check_queries(look: Look) -> Check:
    """How long SELECT statements take, waiting included: the 95th percentile against `limits.redshift_query`."""
    limit = look.platform.limits["redshift_query"]
    must_see_others(look)
    count, p95, longest, over = read(
        look.session, "redshift/query_times", "sys_query_history", limit.critical, naive(look.since)
    )[0]
    severity, reached = against(limit, float(p95))
    if severity is None and int(over):
        severity, reached = Severity.WARNING, limit.critical
    message = (
        f"95 % of {int(count):,} SELECT statements took up to {float(p95):.1f} s, the longest {float(longest):.1f} s; "
        f"{int(over):,} took more than {limit.critical:g} s"
    )
    slow = [
        {"query": int(id), "user": user, "type": kind, "status": status, "at": moment(at).isoformat(timespec="seconds"),
         "seconds": round(float(seconds), 3), "queued": round(float(queued), 3), "text": text}
        for id, user, kind, status, at, seconds, queued, text in read(
            look.session, "redshift/slow_queries", "sys_query_history", naive(look.since)
        )
    ]  # fmt: skip
    return Check(QUERIES, severity is None, message, severity, round(float(p95), 3), reached, "s", {"slowest": slow})


def check_queues(look: Look) -> Check:
    """How long statements wait in a queue: the 95th percentile against `limits.redshift_query`."""
    limit = look.platform.limits["redshift_query"]
    must_see_others(look)
    count, p95, longest, over = read(
        look.session, "redshift/queue_times", "sys_query_history", limit.warn, naive(look.since)
    )[0]
    severity, reached = against(limit, float(p95))
    message = (
        f"95 % of {int(count):,} statements waited up to {float(p95):.1f} s in a queue, the longest "
        f"{float(longest):.1f} s; {int(over):,} waited more than {limit.warn:g} s"
    )
    return Check(
        QUEUES, severity is None, message, severity, round(float(p95), 3), reached, "s", {"queues": queues(look)}
    )


def queues(look: Look) -> list[dict[str, Any]]:
    """Use of each queue; slots, memory and CPU are known of provisioned clusters only."""
    since = naive(look.since)
    provisioned = (
        []  # which may not even have the view
        if look.redshift.serverless
        else read(look.session, "redshift/queue_use_provisioned", "stl_wlm_query", since)
    )
    if provisioned:
        return [
            {"queue": name or str(id), "slots": slots, "statements": int(count), "waited_s": _round(waited),
             "longest_wait_s": _round(longest), "ran_s": _round(ran), "peak_memory": memory, "cpu_s": _round(cpu)}
            for id, name, slots, count, waited, longest, ran, memory, cpu in provisioned
        ]  # fmt: skip
    return [
        {"queue": name or str(id), "statements": int(count), "waited_s": _round(waited),
         "longest_wait_s": _round(longest), "ran_s": _round(ran)}
        for id, name, count, waited, longest, ran in read(
            look.session, "redshift/queue_use", "sys_query_history", since
        )
    ]  # fmt: skip


def check_failed(look: Look) -> Check:
    """The share of statements that fail."""
    must_see_others(look)
    count, failed, cancelled = map(
        int, read(look.session, "redshift/query_counts", "sys_query_history", naive(look.since))[0]
    )
    share = 100.0 * failed / count if count else 0.0
    limit = look.redshift.health.failed_queries
    severity = Severity.WARNING if share > limit and failed >= LEAST_FAILED else None
    errors = [
        {"times": int(times), "last_query": int(query), "user": user, "error": error}
        for times, query, user, error in read(
            look.session, "redshift/failed_queries", "sys_query_history", naive(look.since)
        )
    ]
    message = f"{failed:,} of {count:,} statements failed ({share:.1f} %), {cancelled:,} were cancelled"
    return Check(FAILED, severity is None, message, severity, round(share, 3), limit, "%", {"errors": errors})


def must_see_others(look: Look) -> None:
    """A look at one's own statements must not pass for one at the cluster's.

    :raises NoInsight: this login sees only its own statements.
    """
    all_of_them, roles = read(look.session, "redshift/my_rights", "svv_user_grants")[0]
    if all_of_them or int(roles):
        return
    if int(read(look.session, "redshift/others_seen", "sys_query_history", naive(look.since))[0][0]):
        return  # a role within a role, which is not looked into
    raise NoInsight(
        f"Redshift {look.redshift.name}: no statement of anybody else is shown since {look.since:%Y-%m-%d %H:%M} UTC: "
        "grant the login role sys:monitor, or ALTER USER ... SYSLOG ACCESS UNRESTRICTED"
    )


# --- the cluster --------------------------------------------------------------------------------------------


def check_cpu(look: Look) -> Check:
    """Mean CPU of the busiest hour."""
    if look.redshift.serverless:
        return _serverless(look, CPU)
    value, source = _metric(look, "CPUUtilization", _cpu_of_views)
    return _use(look, CPU, value, f"CPU of the busiest hour {source}")


def check_disk(look: Look) -> Check:
    """Use of the disk, or of the quota of managed storage."""
    if look.redshift.serverless:
        return _serverless(look, DISK)
    value, source = _metric(look, "PercentageDiskSpaceUsed", _disk_of_views)
    return _use(look, DISK, value, f"disk {source}")


def _metric(look: Look, metric: Metric, of_views: Callable[[Look], tuple[float, str]]) -> tuple[float, str]:
    """A value and where it is from: CloudWatch, else system views."""
    why = "no connection to AWS"
    if look.cloudwatch is not None:
        try:
            hour = look.cloudwatch.worst_hour(metric, look.since, look.now)
        except DbopsError as error:
            why = str(error)
        else:
            if hour is not None:
                return hour.value, f"at {hour.at:%Y-%m-%d %H:%M} UTC, by CloudWatch"
            why = f"CloudWatch has no {metric} of {look.redshift.name}"
    value, source = of_views(look)
    return value, f"{source} (not by CloudWatch: {why})"


def _cpu_of_views(look: Look) -> tuple[float, str]:
    hours = read(look.session, "redshift/cpu_use", "svl_query_metrics_summary", naive(look.since))
    if not hours:
        return 0.0, "by its queries: none ran"
    at, percent = hours[0]
    return float(percent or 0), f"at {moment(at):%Y-%m-%d %H:%M} UTC, by what its queries used"


def _disk_of_views(look: Look) -> tuple[float, str]:
    percent, used, nodes = read(look.session, "redshift/disk_use", "stv_node_storage_capacity")[0]
    if not nodes or percent is None:
        raise NoInsight(
            f"Redshift {look.redshift.name}: STV_NODE_STORAGE_CAPACITY shows no node: grant the login sys:monitor"
        )
    return float(percent), f"of the fullest of {nodes} nodes, {int(used):,} MB in all"


def _use(look: Look, name: str, value: float, what: str) -> Check:
    limit = look.platform.limits[name]
    severity, reached = against(limit, value)
    return Check(name, severity is None, f"{value:.1f} %: {what}", severity, round(value, 3), reached, "%")


def _serverless(look: Look, name: str) -> Check:
    """Serverless has neither CPU nor disk to fill: what it used is told."""
    seconds, capacity, _ = read(look.session, "redshift/serverless_use", "sys_serverless_usage", naive(look.since))[0]
    used = f"{float(seconds or 0):,.0f} RPU seconds, at most {float(capacity or 0):g} RPU"
    return Check(name, True, f"serverless, without such a limit: {used}", unit="%")


# --- loads, transactions, tables ----------------------------------------------------------------------------


def check_loads(look: Look) -> Check:
    """Loads that were aborted, or left lines out (MAXERROR)."""
    must_see_others(look)
    count, aborted, with_errors, rows, errors = map(
        int, read(look.session, "redshift/load_totals", "sys_load_history", naive(look.since))[0]
    )
    severity = Severity.WARNING if aborted or with_errors else None
    reasons = [
        {"table": table, "column": column, "error": error, "times": int(times), "file": file, "line": int(line or 0)}
        for table, column, error, times, file, line in read(
            look.session, "redshift/load_errors", "sys_load_error_detail", naive(look.since)
        )
    ]
    message = (
        f"{count:,} loads with {rows:,} rows: {aborted:,} aborted, {with_errors:,} left {errors:,} lines out"
        + "".join(f"; {one['table']}.{one['column']}: {one['error']} ({one['times']} times)" for one in reasons[:3])
    )
    return Check(
        LOADS, severity is None, message, severity, float(aborted + with_errors), 0.0, None, {"errors": reasons}
    )


def check_transactions(look: Look) -> Check:
    """Transactions that are open for too long: VACUUM removes no rows that were deleted since they began."""
    limit = look.redshift.health.old_transaction
    now = session_facts(look.session).now
    old = open_transactions(look.session, now - limit)
    oldest = (now - old[0].started_at).total_seconds() if old else 0.0
    message = (
        f"{len(old)} transactions are open for more than {duration_text(limit)}: " + "; ".join(map(str, old[:5]))
        if old
        else f"no transaction is open for more than {duration_text(limit)}"
    )
    severity = Severity.WARNING if old else None
    return Check(TRANSACTIONS, not old, message, severity, round(oldest, 3), limit.total_seconds(), "s")


def check_storage(look: Look) -> Check:
    """Size of the largest tables, for the trend: never a problem in itself."""
    tables = table_figures(look.session)
    total = sum(table.size_mb for table in tables)
    largest = {table.name: table.size_mb for table in tables[:LARGEST_TABLES]}
    return Check(
        STORAGE,
        True,
        f"{len(tables)} tables hold {total:,} MB",
        value=float(total),
        unit="MB",
        details={"tables": largest},
    )


def record_use(look: Look) -> Check:
    """Which tables were read, for the monthly review: Redshift forgets after about a week."""
    must_see_others(look)
    names = {table.id: table.name for table in table_figures(look.session)}
    scans = read(look.session, "redshift/table_scans", "sys_query_detail", naive(look.since))
    used = {
        names[int(table)]: {"queries": int(queries), "in_range": int(in_range)}
        for table, queries, in_range in scans
        if int(table) in names
    }
    return Check(
        USE,
        True,
        f"{len(used)} of {len(names)} tables were read",
        value=float(len(used)),
        details={"since": look.since.isoformat(), "until": look.now.isoformat(), "tables": used},
    )


def against(limit: Limit, value: float) -> tuple[Severity | None, float]:
    """How bad a value is, and the limit that it is told with."""
    if value > limit.critical:
        return Severity.CRITICAL, limit.critical
    if value > limit.warn:
        return Severity.WARNING, limit.warn
    return None, limit.target


def in_words(checks: Sequence[Check]) -> list[str]:
    return [
        f"{'ok' if check.ok else (check.severity or Severity.WARNING).upper()}: {check.name}: {check.message}"
        for check in checks
    ]


def _round(value: Any) -> float | None:
    return None if value is None else round(float(value), 3)
