"""Judging an hour of a pipeline, and the pipeline as it is now. Each check passes, warns, or is an error.

What is there is read first, once; each check then judges what was read. What could not be read makes those checks blind
that need it, and no other. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from dbops.backups.store import S3Store, Store
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, DbopsError
from dbops.etl.files import Files, look_at
from dbops.etl.findings import (
    FILES,
    FRESHNESS,
    KEYS,
    LOAD,
    NULLS,
    RANGES,
    RECONCILIATION,
    REFERENCES,
    ROWS,
    RUN,
    SCHEDULE,
    SUCCESS,
    TWICE,
    Family,
    Finding,
    Outcome,
)
from dbops.etl.jobs import ENDED_BADLY, GLUE_KEEPS, SUCCEEDED, JobRun, Jobs, NotThere, floor_hour
from dbops.etl.warehouse import (
    LOADS_KEPT,
    Loads,
    Orphans,
    Rows,
    loads_of,
    newest_row,
    orphans_of,
    past_rows,
    rows_of,
)
from dbops.platform import Limit, Platform, duration_text
from dbops.platform.etl import HOUR, Etl, Pipeline, Thresholds
from dbops.redshift.session import LazySession, Session, open_session

SUCCESS_WINDOW = timedelta(days=7)
LEAST_HOURS = 24
"""A share of fewer hours says nothing."""
LEAST_WEEKS = 2
"""The same hour of fewer past weeks says nothing."""
MOST_NAMED = 5

Fact = Any


@dataclass
class Look:
    """What the checks of one run share."""

    session: Session
    platform: Platform
    etl: Etl
    jobs: Jobs
    connection: ConnectionInfo
    """To AWS."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    known_rows: Callable[[str], int | None] = lambda digest: None
    """Rows of files by their digest, as they were counted before."""

    def store(self, pipeline: Pipeline) -> Store:
        return S3Store(pipeline.bucket, "", self.connection, self.etl.region)


@contextmanager
def opened_look(platform: Platform, connection: Callable[[str], ConnectionInfo]) -> Iterator[Look]:
    """A look whose warehouse is connected to when it is first asked: what does not need it is judged without.

    :raises ConfigurationError: the platform has no pipelines.
    """
    redshift = platform.redshift
    assert redshift is not None
    with closing(LazySession(lambda: open_session(connection(redshift.connection)))) as session:
        yield open_look(platform, session, connection)


def open_look(platform: Platform, session: Session, connection: Callable[[str], ConnectionInfo]) -> Look:
    """:raises ConfigurationError: the platform has no pipelines."""
    etl = etl_of(platform)
    aws = connection(etl.aws_connection)
    return Look(session, platform, etl, Jobs(aws, etl.region), aws)


def etl_of(platform: Platform) -> Etl:
    """:raises ConfigurationError: the platform has no pipelines."""
    if platform.etl is None:
        raise ConfigurationError(f"platform {platform.name} has no section `etl`")
    return platform.etl


def newest_due(etl: Etl, now: datetime) -> datetime:
    """The newest hour whose rows must be in the table by now."""
    return floor_hour(now - etl.due) - HOUR


# --- an hour ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What was read of an hour: a value, the error that kept it from being read, or None where nothing can be known any
    more (Redshift forgets loads after a week, Glue runs after 90 days, files expire).
    """

    runs: Fact
    files: Fact
    loads: Fact
    rows: Fact
    past: Fact
    orphans: tuple[Fact, ...]


def check_hour(look: Look, pipeline: Pipeline, hour: datetime) -> list[Finding]:
    """Judge an hour (its beginning, aware) of a pipeline, in the order of cause and effect.

    :raises ConfigurationError: the hour is not due yet, or `hour` is no full hour.
    """
    hour = hour.astimezone(UTC)
    if hour != floor_hour(hour):
        raise ConfigurationError(f"{hour.isoformat()} is no full hour")
    if hour > newest_due(look.etl, look.now):
        raise ConfigurationError(
            f"pipeline {pipeline.name}: the rows of {hour:%Y-%m-%d %H}:00 UTC are due at "
            f"{hour + HOUR + look.etl.due:%Y-%m-%d %H:%M} UTC; judge it then"
        )
    return judge_hour(look, pipeline, hour, read_hour(look, pipeline, hour))


def read_hour(look: Look, pipeline: Pipeline, hour: datetime) -> Facts:
    """Everything that the checks of an hour need."""
    age = look.now - hour

    def files() -> Files:
        return look_at(
            look.store(pipeline), pipeline.prefix_of(hour), pipeline.format, header_lines=pipeline.header_lines,
            manifest=pipeline.manifest, known=look.known_rows,
        )  # fmt: skip

    def runs() -> list[JobRun]:
        return [run for run in look.jobs.runs(pipeline, hour) if run.hour() == hour]

    return Facts(
        runs=_tried(runs) if age < GLUE_KEEPS else None,
        files=_tried(files) if age < look.etl.files_kept else None,
        loads=_tried(loads_of, look.session, pipeline, hour) if age < LOADS_KEPT else None,
        rows=_tried(rows_of, look.session, pipeline, hour),
        past=_tried(past_rows, look.session, pipeline, hour, pipeline.anomaly.weeks) if pipeline.anomaly else None,
        orphans=tuple(_tried(orphans_of, look.session, pipeline, one, hour) for one in pipeline.references),
    )


def _tried(ask: Callable[..., Fact], *words: Any) -> Fact:
    try:
        return ask(*words)
    except DbopsError as error:
        return error


def judge_hour(look: Look, pipeline: Pipeline, hour: datetime, facts: Facts) -> list[Finding]:
    """The findings of what was read; checks whose facts cannot be known any more are not made."""
    hand = _Hand(look, pipeline, hour, facts)
    made: list[Finding | None] = [
        hand.judge(RUN, Family.LATE, judge_run, facts.runs),
        hand.judge(FILES, Family.LATE, judge_files, facts.files),
        hand.judge(LOAD, Family.LOAD, judge_load, facts.loads),
        hand.judge(TWICE, Family.LOAD, judge_twice, facts.loads),
        hand.judge(RECONCILIATION, Family.LOAD, judge_reconciliation, facts.files, facts.loads, facts.rows),
        hand.judge(ROWS, Family.DATA, judge_rows, facts.rows, facts.past),
    ]
    if pipeline.key:
        made.append(hand.judge(KEYS, Family.DATA, judge_keys, facts.rows))
    if any(column.nulls for column in pipeline.columns):
        made.append(hand.judge(NULLS, Family.DATA, judge_nulls, facts.rows))
    if any(column.min is not None or column.max is not None for column in pipeline.columns):
        made.append(hand.judge(RANGES, Family.DATA, judge_ranges, facts.rows))
    if pipeline.references:
        made.append(hand.judge(REFERENCES, Family.DATA, judge_references, *facts.orphans))
    return [one for one in made if one is not None]


@dataclass(frozen=True)
class _Hand:
    """What a judge of one check has at hand."""

    look: Look
    pipeline: Pipeline
    hour: datetime
    facts: Facts

    def judge(
        self, check: str, family: Family, judge: Callable[..., Verdict | None], *facts: Fact
    ) -> Finding | None:  # fmt: skip
        error = next((fact for fact in facts if isinstance(fact, DbopsError)), None)
        if error is not None:
            return Finding(
                check, self.pipeline.name, Outcome.BLIND, f"could not look: {error}", family, self.hour, error=error
            )
        if facts[0] is None and check not in (RECONCILIATION, ROWS):
            return None
        verdict = judge(self, *facts)
        if verdict is None:
            return None
        return Finding(
            check, self.pipeline.name, verdict.outcome, verdict.message, verdict.family or family, self.hour,
            verdict.value, verdict.limit, verdict.unit, verdict.details,
        )  # fmt: skip

    @property
    def written(self) -> int | None:
        """Rows in the files, if that is known."""
        return self.facts.files.rows if isinstance(self.facts.files, Files) else None

    @property
    def stored(self) -> int | None:
        """Rows in the table, if that is known."""
        return self.facts.rows.count if isinstance(self.facts.rows, Rows) else None

    @property
    def is_whole(self) -> bool:
        """The table has as many rows as the files: whatever went wrong was put right since."""
        return self.written is not None and self.written == self.stored

    @property
    def is_running(self) -> bool:
        runs = self.facts.runs
        return isinstance(runs, list) and any(not run.is_over for run in runs)


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    message: str
    value: float | None = None
    limit: float | None = None
    unit: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    family: Family | None = None


def judge_run(hand: _Hand, runs: Sequence[JobRun]) -> Verdict:
    """Did the Glue job run for this hour, and end well?"""
    pipeline, now = hand.pipeline, hand.look.now
    details = {"runs": [{"id": run.id, "state": run.state, "started": run.started_at.isoformat()} for run in runs[:10]]}
    limit = pipeline.max_runtime.total_seconds() / 60
    if not runs:
        return Verdict(
            Outcome.ERROR, f"Glue job {pipeline.job} has no run for this hour: it was not started", None, limit, "min"
        )
    failed = [run for run in runs if run.state in ENDED_BADLY]
    done = next((run for run in runs if run.state == SUCCEEDED), None)
    if done is not None:
        minutes = round(done.seconds / 60, 1)
        after = f", after {len(failed)} that did not" if failed else ""
        said = f"run {done.id} succeeded in {minutes:g} min{after}"
        if minutes > limit:
            return Verdict(
                Outcome.WARN, f"{said}: longer than {limit:g} min", minutes, limit, "min", details, Family.LATE
            )
        return Verdict(Outcome.PASS, said, minutes, limit, "min", details)
    newest = runs[0]
    if newest.is_over:
        reason = f": {newest.error}" if newest.error else ""
        said = f"run {newest.id} of Glue job {pipeline.job} ended as {newest.state}{reason}"
        return Verdict(Outcome.ERROR, said, round(newest.seconds / 60, 1), limit, "min", details, Family.FAILED)
    running = now - newest.started_at
    minutes = round(running.total_seconds() / 60, 1)
    said = f"run {newest.id} of Glue job {pipeline.job} is {newest.state} for {duration_text(running)}"
    outcome = Outcome.ERROR if running > pipeline.max_runtime else Outcome.WARN
    return Verdict(
        outcome, f"{said} (limit {duration_text(pipeline.max_runtime)})", minutes, limit, "min", details, Family.LATE
    )


def judge_files(hand: _Hand, files: Files) -> Verdict:
    """Are there files, and are there rows in them?"""
    url = hand.pipeline.url_of(hand.hour)
    details = {"files": files.count, "bytes": files.bytes, "digest": files.digest}
    if not files.count:
        outcome = Outcome.WARN if hand.is_running else Outcome.ERROR
        return Verdict(outcome, f"there is no file below {url}", 0, 1, "rows", details)
    said = f"{files.count} files below {url} hold {files.rows:,} rows"
    floor = hand.pipeline.rows.error
    return Verdict(Outcome.PASS if files.rows else Outcome.ERROR, said, files.rows, floor, "rows", details)


def judge_load(hand: _Hand, loads: Loads) -> Verdict:
    """Did COPY load the files, without refusing them or leaving lines out?"""
    limits = hand.pipeline.lost
    done = [load for load in loads.loads if load.is_completed]
    aborted = [load for load in loads.loads if load.status == "aborted"]
    details = {
        "loads": [
            {"query": one.query, "status": one.status, "at": one.at.isoformat(), "rows": one.rows, "lost": one.lost}
            for one in loads.loads[:10]
        ],
        "errors": [vars(one) for one in loads.errors],
    }
    why = f": {loads.errors[0]}" if loads.errors else ""
    if not loads.loads:
        if hand.is_whole and hand.stored:
            return Verdict(Outcome.PASS, "no COPY of these files, and the table has their rows", 0, None, "rows")
        outcome = Outcome.WARN if hand.is_running else Outcome.ERROR
        return Verdict(outcome, f"no COPY has read {hand.pipeline.url_of(hand.hour)}", 0, None, "rows")
    if loads.loads[0].status == "aborted" and not hand.is_whole:
        said = f"COPY (query {aborted[0].query}) was refused and loaded nothing{why}"
        return Verdict(Outcome.ERROR, said, loads.rows, hand.written, "rows", details)
    if not done:
        return Verdict(Outcome.WARN, f"COPY is {loads.loads[0].status}", 0, hand.written, "rows", details)
    if loads.lost:
        share = _percent(loads.lost, loads.rows + loads.lost)
        said = f"COPY left {loads.lost:,} lines out (MAXERROR), {share:.2g} % of them{why}"
        if hand.is_whole:
            return Verdict(Outcome.PASS, f"{said}; they are in the table by now", share, limits.warn, "%", details)
        outcome, limit = _against(limits, share)
        return Verdict(outcome, said, share, limit, "%", details)
    before = f"; {len(aborted)} before were refused" if aborted else ""
    said = f"{len(done)} loads brought {loads.rows:,} rows{before}"
    return Verdict(Outcome.PASS, said, loads.rows, None, "rows", details)


def judge_twice(hand: _Hand, loads: Loads) -> Verdict:
    """Was a file loaded more than once? COPY does so without a word."""
    details = {"files": [vars(one) for one in loads.twice]}
    count = len(loads.twice)
    if not count:
        return Verdict(Outcome.PASS, "no file was loaded more than once", 0, 0, "files")
    named = ", ".join(f"{one.file} ({one.times} times)" for one in loads.twice[:MOST_NAMED])
    if hand.written is not None and hand.stored is not None and hand.stored <= hand.written:
        lost = [] if hand.pipeline.key else sorted(set(hand.facts.files.urls) - loads.files)
        if lost or not (hand.pipeline.key or hand.facts.files.urls):  # the rows of one may stand in for another's
            why = (
                f"{len(lost)} were never loaded: {', '.join(lost[:MOST_NAMED])}" if lost else "their names are unknown"
            )
            said = f"{count} files were loaded more than once ({named}); the table has no row too many, but {why}"
            return Verdict(Outcome.WARN, said, count, 0, "files", details)
        said = f"{count} files were loaded more than once, and the table has no row too many: {named}"
        return Verdict(Outcome.PASS, said, 0, 0, "files", details)
    return Verdict(Outcome.ERROR, f"{count} files were loaded more than once: {named}", count, 0, "files", details)


def judge_reconciliation(hand: _Hand, files: Files | None, loads: Loads | None, rows: Rows) -> Verdict | None:
    """Are the rows of the files those that were loaded, and those that the table has?"""
    if files is not None:
        written = files.rows
    elif loads is not None and loads.loads:
        # Of an hour that was deleted and loaded again, the last load has all rows.
        whole = {load.rows for load in loads.loads if load.is_completed}
        written = rows.count if rows.count in whole else loads.rows
    else:
        return None
    loaded = None if loads is None else loads.rows
    details = {"files": None if files is None else files.rows, "loaded": loaded, "table": rows.count}
    source = "the files hold" if files is not None else "COPY brought"
    said = f"{source} {written:,} rows"
    if files is not None and loaded is not None:
        said += f", COPY brought {loaded:,}"
    said += f", the table has {rows.count:,}"
    off = rows.count - written
    share = _percent(abs(off), max(written, 1))
    outcome, limit = _against(hand.pipeline.mismatch, share)
    if off and outcome == Outcome.PASS:
        said += f": {share:.2g} % apart"
    elif off:
        said += f": {abs(off):,} {'too many' if off > 0 else 'are missing'}"
        if outcome == Outcome.ERROR and off < 0 and hand.is_running:
            outcome = Outcome.WARN
    return Verdict(outcome, said, off, limit, "rows" if not limit else "%", details)


def judge_rows(hand: _Hand, rows: Rows, past: list[int] | None) -> Verdict:
    """Are there as many rows as there always are?"""
    floor, anomaly, count = hand.pipeline.rows, hand.pipeline.anomaly, rows.count
    details: dict[str, Any] = {"past": past}
    if count < floor.warn:
        outcome = Outcome.ERROR if count < floor.error else Outcome.WARN
        limit = floor.error if outcome == Outcome.ERROR else floor.warn
        return Verdict(outcome, f"{count:,} rows, fewer than {limit:,}", count, limit, "rows", details)
    if anomaly is None or past is None or len(past) < LEAST_WEEKS:
        why = "" if anomaly is None else f"; {len(past or ())} past weeks to compare with"
        return Verdict(Outcome.PASS, f"{count:,} rows{why}", count, floor.warn, "rows", details)
    usual = median(past)
    off = _percent(abs(count - usual), usual)
    outcome, reached = _against(Thresholds(warn=anomaly.warn, error=anomaly.error), off)
    word = "less" if count < usual else "more"
    said = f"{count:,} rows, {off:.0f} % {word} than the {usual:,.0f} of that hour in {len(past)} past weeks"
    return Verdict(
        outcome, said, count, usual, "rows", details | {"off_percent": round(off, 2), "limit_percent": reached}
    )


def judge_keys(hand: _Hand, rows: Rows) -> Verdict:
    """Is each row there once?"""
    if not rows.count:
        return _empty()
    repeated = rows.repeated or 0
    said = f"{repeated:,} of {rows.count:,} rows repeat a {hand.pipeline.key}"
    return Verdict(Outcome.ERROR if repeated else Outcome.PASS, said, repeated, 0, "rows")


def judge_nulls(hand: _Hand, rows: Rows) -> Verdict:
    """Are key columns filled?"""
    if not rows.count:
        return _empty()
    limits = {column.name: column.nulls for column in hand.pipeline.columns}
    found = []
    for column in rows.columns:
        if (limit := limits[column.name]) is not None:
            share = _percent(column.nulls, rows.count)
            outcome, reached = _against(limit, share)
            found.append((outcome, share, reached, f"{column.name} {share:.3g} %"))
    outcome, share, reached, _ = _worst(found)
    details = {column.name: column.nulls for column in rows.columns}
    said = f"NULL: {', '.join(words for *_, words in found)} of {rows.count:,} rows"
    return Verdict(outcome, said, round(share, 3), reached, "%", details)


def judge_ranges(hand: _Hand, rows: Rows) -> Verdict:
    """Are values within what can be?"""
    if not rows.count:
        return _empty()
    limits = {column.name: column for column in hand.pipeline.columns}
    parts, outside = [], 0
    details: dict[str, Any] = {}
    for column in rows.columns:
        limit = limits[column.name]
        if limit.min is None and limit.max is None:
            continue
        many = column.below + column.above
        outside += many
        parts.append(f"{column.name} {column.low} to {column.high}" + (f" ({many:,} rows outside)" if many else ""))
        details[column.name] = {
            "below": column.below, "above": column.above, "low": column.low, "high": column.high, "min": limit.min,
            "max": limit.max,
        }  # fmt: skip
    outcome = Outcome.ERROR if outside else Outcome.PASS
    return Verdict(outcome, f"values: {', '.join(parts)}", outside, 0, "rows", details)


def judge_references(hand: _Hand, *found: Orphans) -> Verdict:
    """Does each row refer to one that is there?"""
    if hand.stored == 0:
        return _empty()
    judged, details = [], {}
    for one in found:
        share = _percent(one.orphans, one.rows)
        outcome, limit = _against(one.reference.orphans, share)
        said = f"{one.orphans:,} of {one.rows:,} rows have a {one.reference.column} that {one.reference.table} has not"
        if one.orphans and not one.others:
            said += ", which has no row of that time"
        if not one.rows:  # nothing was compared, which is not that all is well
            nulls = f"{one.reference.column} is NULL in all of {one.nulls:,} rows"
            outcome, said = Outcome.ERROR, nulls if one.nulls else "there is no row to look at"
        judged.append((outcome, share, limit, said))
        details[one.reference.column] = {
            "table": one.reference.table, "rows": one.rows, "orphans": one.orphans, "others": one.others,
            "nulls": one.nulls,
        }  # fmt: skip
    outcome, share, limit, _ = _worst(judged)
    bad = [said for state, _, _, said in judged if state != Outcome.PASS]
    said = "; ".join(bad or [said for *_, said in judged])
    return Verdict(outcome, said, round(share, 3), limit, "%", details)


def _empty() -> Verdict:
    return Verdict(Outcome.ERROR, "there is no row to look at", details={"empty": True})


# --- now ----------------------------------------------------------------------------------------------------


def check_now(look: Look, pipeline: Pipeline) -> list[Finding]:
    """Judge a pipeline as it is now: its rule, the age of its newest row, its success over seven days."""
    made = [_now(look, pipeline, FRESHNESS, Family.LATE, check_freshness)]
    made.append(_now(look, pipeline, SUCCESS, Family.FAILED, check_success))
    if pipeline.rule:
        made.insert(0, _now(look, pipeline, SCHEDULE, Family.LATE, check_schedule))
    return made


def _now(
    look: Look, pipeline: Pipeline, check: str, family: Family, judge: Callable[[Look, Pipeline], Verdict]
) -> Finding:  # fmt: skip
    try:
        found = judge(look, pipeline)
    except DbopsError as error:
        return Finding(check, pipeline.name, Outcome.BLIND, f"could not look: {error}", family, error=error)
    return Finding(
        check, pipeline.name, found.outcome, found.message, family, None, found.value, found.limit, found.unit,
        found.details,
    )  # fmt: skip


def check_schedule(look: Look, pipeline: Pipeline) -> Verdict:
    """Is the rule there, enabled, and does it start something?"""
    name = pipeline.rule or ""
    details = {"rule": name}
    try:
        rule = look.jobs.rule(name)
    except NotThere:
        return Verdict(Outcome.ERROR, f"EventBridge has no rule {name}: nothing starts the job", details=details)
    if not rule.is_enabled:
        return Verdict(Outcome.ERROR, f"EventBridge rule {name} is disabled: nothing starts the job", details=details)
    if not rule.targets:
        return Verdict(Outcome.ERROR, f"EventBridge rule {name} has no target: it starts nothing", details=details)
    said = f"rule {name} is enabled ({rule.schedule or 'by events'}, {rule.targets} targets)"
    return Verdict(Outcome.PASS, said, details=details)


def check_freshness(look: Look, pipeline: Pipeline) -> Verdict:
    """How old is the newest row?"""
    limits = pipeline.freshness
    since = look.now - limits.error * 2
    newest = newest_row(look.session, pipeline, look.now, since)
    if newest is None:
        said = f"{pipeline.table} has no row of the last {duration_text(limits.error * 2)}"
        return Verdict(Outcome.ERROR, said, None, limits.error.total_seconds(), "s")
    age = max(timedelta(0), look.now - newest)
    outcome, limit = Outcome.PASS, limits.warn
    if age > limits.warn:
        outcome, limit = (Outcome.ERROR, limits.error) if age > limits.error else (Outcome.WARN, limits.warn)
    said = f"the newest row of {pipeline.table} is {duration_text(age)} old (limit {duration_text(limit)})"
    return Verdict(
        outcome, said, round(age.total_seconds()), limit.total_seconds(), "s", {"newest": newest.isoformat()}
    )


def check_success(look: Look, pipeline: Pipeline) -> Verdict:
    """In how many of the hours that were due in the last seven days did the job succeed?"""
    last = newest_due(look.etl, look.now)
    first = last + HOUR - SUCCESS_WINDOW
    runs = look.jobs.runs(pipeline, first)
    if all(run.hour() != first for run in runs):  # a new pipeline, or one that began the window with an outage
        runs = look.jobs.runs(pipeline, look.now - GLUE_KEEPS)
    return judge_success(runs, first, last, look.platform.limits["etl_failed"])


def judge_success(runs: Iterable[JobRun], first: datetime, last: datetime, limit: Limit) -> Verdict:
    """:param first: :param last: hours that count; those before the first run of a new pipeline do not.

    :param runs: also older ones, which tell a new pipeline from one that stood still.
    """
    ended: dict[datetime, bool] = {}
    is_new = True
    for run in runs:
        is_new = is_new and run.started_at >= first + HOUR
        if first <= run.hour() <= last:
            ended[run.hour()] = ended.get(run.hour(), False) or run.state == SUCCEEDED
    if not ended:
        return Verdict(Outcome.ERROR, "no run at all in 7 days", 100.0, limit.warn, "%")
    begin = min(ended) if is_new else first
    hours = int((last - begin) / HOUR) + 1
    good = sum(ended.values())
    failed = _percent(hours - good, hours)
    outcome, reached = _against(Thresholds(warn=limit.warn, error=limit.critical), failed)
    if hours < LEAST_HOURS:
        outcome = Outcome.PASS
    said = (
        f"{good:,} of {hours:,} hours succeeded in 7 days: {100 - failed:.2f} %, the target is {100 - limit.target:g} %"
    )
    bad = [hour for n in range(hours) if not ended.get(hour := begin + HOUR * n)]
    details = {"hours": hours, "succeeded": good, "failed": [f"{hour:%Y-%m-%dT%H}" for hour in bad[-24:]]}
    return Verdict(outcome, said, round(failed, 3), reached, "%", details)


# --- parts --------------------------------------------------------------------------------------------------

_ORDER = (Outcome.PASS, Outcome.WARN, Outcome.ERROR)


def _against(limits: Thresholds, value: float) -> tuple[Outcome, float]:
    """How bad a value is, and the limit that it is told with."""
    if value > limits.error:
        return Outcome.ERROR, limits.error
    if value > limits.warn:
        return Outcome.WARN, limits.warn
    return Outcome.PASS, limits.warn


def _worst(found: list[tuple[Outcome, float, float, str]]) -> tuple[Outcome, float, float, str]:
    return max(found, key=lambda one: (_ORDER.index(one[0]), one[1]))


def _percent(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 0.0
