"""The platform's ETL in small: hourly files on S3, a Glue run for each pipeline and hour, COPY into the warehouse.

A pipeline is one of the raw event tables. For each hour a run of its Glue job writes two files to
`<name>/<table>/dt=YYYY-MM-DD/hr=HH/`, which are loaded; then the aggregates of that hour are made anew. EventBridge has
the rule that would start it. Each step can go wrong on purpose (`FAULTS`), and `run` returns what then is where. An
hour is late until it is run.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import resources
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.config import Config
from dbops.connections import ConnectionInfo
from dbops_lab.application.events import HOUR, PRICE, TABLES, Rows, floor_hour
from dbops_lab.application.world import World, ident, json_text
from dbops_lab.redshift.process import call as tell_redshift
from dbops_lab.s3 import REGION
from dbops_lab.supervisor import direct

BUCKET = "bedrock-events"
ROLE = "arn:aws:iam::123456789012:role/etl"
FORMATS = {
    "bidstream_v2": "json.gz", "impressions": "parquet", "wins": "csv.gz", "clicks": "json.gz", "users": "csv.gz",
    "dmp_events": "csv.gz",
}  # fmt: skip
OPTIONS = {
    "json.gz": "format as json 'auto' gzip timeformat 'auto'",
    "csv.gz": "csv ignoreheader 1 gzip timeformat 'auto' emptyasnull",
    "parquet": "format as parquet",
}
PARTS = 2  # files of a pipeline and hour
AFTER = timedelta(minutes=5)  # after the end of its hour a run begins
PRICES = ("bid_price", "win_price")
MAX_ERRORS = 100
SEEDED_HOURS = 200  # of the past, in one file

FAULTS: Mapping[str, str] = {
    "not_started": "no Glue run, no file, nothing loaded",
    "glue_failed": "the run failed, with an error message",
    "glue_timeout": "the run was ended by its timeout",
    "glue_running": "the run goes on and on",
    "load_failed": "COPY refuses a line, and loads nothing",
    "load_lost": "COPY was allowed errors (MAXERROR), and lost some lines",
    "partial": "one of the two files was not loaded",
    "twice": "one of the two files was loaded twice",
    "not_loaded": "the files are there, and COPY never ran",
    "empty": "files without a row were loaded",
    "few": "most rows never reached the files",
    "repeated": "some rows are in the files twice",
    "nulls": "some rows have no order_id (user_id where there is none)",
    "out_of_range": "some prices are negative (bidstream_v2, impressions, wins)",
    "orphans": "some wins or clicks are of no impression",
    "unknown_campaign": "some order_ids are of no campaign",
}
GLUE_ERRORS = (
    "Error Category: UNCLASSIFIED_ERROR; An error occurred while calling o104.pyWriteDynamicFrame. Access Denied",
    "Error Category: OUT_OF_MEMORY_ERROR; Container killed by YARN for exceeding memory limits",
    "Error Category: RESOURCE_NOT_FOUND_ERROR; No such file or directory 's3://bedrock-events/raw'",
)


@dataclass(frozen=True)
class File:
    key: str
    rows: int
    size: int


@dataclass(frozen=True)
class Load:
    """What became of one pipeline in one hour.

    :param expected: rows that should be in the table; `written` are in its files, `loaded` came in.
    :param affected: how many rows a fault of the data touched.
    """

    table: str
    hour: datetime
    fault: str | None = None
    run: str | None = None
    state: str | None = None
    error: str | None = None
    files: tuple[File, ...] = ()
    expected: int = 0
    loaded: int = 0
    affected: int = 0
    keys: tuple[str, ...] = field(default=(), repr=False)
    """Of the rows that a fault touched: their first column."""

    @property
    def written(self) -> int:
        return sum(file.rows for file in self.files)


class Etl:
    """The pipelines of one warehouse.

    :param endpoint: of S3, Glue and EventBridge.
    :param warehouse: a connection of type redshift.
    :param control: port of the Redshift stand-in's control, for loads of the past.
    :param name: of jobs (`<name>_wins`), rule (`<name>_hourly`) and key prefix, so that several can live in one lab.
    """

    def __init__(
        self, world: World, endpoint: str, warehouse: ConnectionInfo, control: int, *, keys: tuple[str, str],
        bucket: str = BUCKET, name: str = "events", schema: str = "public",
    ) -> None:  # fmt: skip
        self.world, self.bucket, self.name, self.schema = world, bucket, name, schema
        self._endpoint, self._warehouse, self._control = endpoint, warehouse, control
        session = boto3.Session(aws_access_key_id=keys[0], aws_secret_access_key=keys[1], region_name=REGION)
        config = Config(proxies={}, retries={"max_attempts": 1})
        self.s3, self.glue, self.events = (
            session.client(service, endpoint_url=endpoint, config=config) for service in ("s3", "glue", "events")
        )

    @property
    def rule(self) -> str:
        return f"{self.name}_hourly"

    def job(self, table: str) -> str:
        return f"{self.name}_{table}"

    def prefix(self, table: str, hour: datetime) -> str:
        return f"{self.name}/{table}/dt={hour:%Y-%m-%d}/hr={hour:%H}/"

    # ------------------------------------------------------------------ what is there before the first hour

    def create(self) -> None:
        """Bucket, tables, Glue jobs and the rule of EventBridge, as far as they are missing."""
        place = {"LocationConstraint": REGION}
        if self.bucket not in [one["Name"] for one in self.s3.list_buckets()["Buckets"]]:
            self.s3.create_bucket(Bucket=self.bucket, CreateBucketConfiguration=place)
        known = self.glue.list_jobs(MaxResults=1000)["JobNames"]
        for table in TABLES:
            if self.job(table) not in known:
                self.glue.create_job(
                    Name=self.job(table), Role=ROLE, GlueVersion="5.0", Timeout=50, MaxRetries=0,
                    Command={"Name": "glueetl", "ScriptLocation": f"s3://{self.bucket}/scripts/{table}.py"},
                    ExecutionProperty={"MaxConcurrentRuns": 1000},
                )  # fmt: skip
        self.schedule()
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(f'create schema if not exists "{self.schema}"')
            cursor.execute("select tablename from pg_tables where schemaname = %s", (self.schema,))
            known = {name for (name,) in cursor.fetchall()}
            for statement in _statements("warehouse.sql"):
                if statement.split()[2] not in known:
                    cursor.execute(statement)

    def tables(self) -> list[str]:
        """All tables, aggregates included."""
        return [statement.split()[2] for statement in _statements("warehouse.sql")]

    def schedule(self, *, is_enabled: bool = True) -> None:
        """Put the rule, with its targets, five minutes after each hour."""
        state = "ENABLED" if is_enabled else "DISABLED"
        self.events.put_rule(Name=self.rule, ScheduleExpression="cron(5 * * * ? *)", State=state)
        self.events.put_targets(
            Rule=self.rule,
            Targets=[
                {"Id": table, "Arn": f"arn:aws:glue:{REGION}:123456789012:job/{self.job(table)}"} for table in TABLES
            ],
        )

    def unschedule(self) -> None:
        """Remove the rule."""
        self.events.remove_targets(Rule=self.rule, Ids=list(TABLES))
        self.events.delete_rule(Name=self.rule)

    def connect(self) -> Any:
        """A session of the warehouse that commits each statement, and whose tables are those of the schema."""
        import redshift_connector

        info = self._warehouse
        connection = redshift_connector.connect(
            host=info.host, port=info.port, database=info.schema, user=info.login, password=info.password, ssl=False
        )
        connection.autocommit = True
        with closing(connection.cursor()) as cursor:
            cursor.execute(f'set search_path to "{self.schema}"')
        return connection

    # ------------------------------------------------------------------ an hour

    def run(
        self, hour: datetime, faults: Mapping[str, str] | None = None, *, tables: Iterable[str] = TABLES, seed: int = 0,
        is_aggregated: bool = True,
    ) -> dict[str, Load]:  # fmt: skip
        """Everything for one hour; what became of each pipeline.

        :param faults: by table, one of `FAULTS`.
        :param seed: chooses the rows and lines that a fault touches.
        """
        hour = floor_hour(hour)
        done = {}
        with closing(self.connect()) as connection:
            for table in tables:
                picks = random.Random(f"{self.world.seed}/{seed}/{table}/{hour}")
                done[table] = self._pipeline(connection, table, hour, (faults or {}).get(table), picks)
            if is_aggregated:
                self.aggregate(connection, hour, hour + HOUR)
        return done

    def _pipeline(self, connection: Any, table: str, hour: datetime, fault: str | None, picks: random.Random) -> Load:
        if fault is not None and fault not in faults_of(table):
            raise ValueError(f"{fault!r} is no fault of {table}: {', '.join(faults_of(table))}")
        rows = self.world.hour(hour).rows(table)
        expected = len(rows["timestamp"])
        if fault == "not_started":
            return Load(table, hour, fault, expected=expected)
        if fault in ("glue_failed", "glue_timeout", "glue_running"):
            state, error = {"glue_failed": ("FAILED", picks.choice(GLUE_ERRORS)), "glue_timeout": ("TIMEOUT", None),
                            "glue_running": ("RUNNING", None)}[fault]  # fmt: skip
            run = self.glue_run(table, hour, state, error=error)
            return Load(table, hour, fault, run, state, error, expected=expected)
        rows, keys = _spoiled(self.world, table, rows, fault, picks)
        bad = picks.randint(1, 5) if fault in ("load_failed", "load_lost") else 0
        files = self._write(table, hour, rows, bad)
        run = self.glue_run(table, hour, "SUCCEEDED")
        error = None
        try:
            loaded = self._load(connection, table, hour, files, fault)
        except _LoadFailed as problem:
            loaded, error = 0, str(problem)
        return Load(table, hour, fault, run, "SUCCEEDED", error, files, expected, loaded, bad or len(keys), keys)

    def _write(self, table: str, hour: datetime, rows: Rows, bad: int) -> tuple[File, ...]:
        """Two files; `bad` lines of the first are none that COPY takes (of Parquet: the whole file, when there are)."""
        files = []
        count = len(rows["timestamp"])
        for part in range(PARTS):
            piece = {name: column[part::PARTS] for name, column in rows.items()}
            body = _FORMS[FORMATS[table]](piece, bad if part == 0 else 0)
            key = self.prefix(table, hour) + _part(table, part)
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
            files.append(File(key, len(range(part, count, PARTS)), len(body)))
        return tuple(files)

    def _load(self, connection: Any, table: str, hour: datetime, files: Sequence[File], fault: str | None) -> int:
        if fault == "not_loaded":
            return 0
        sources = [self.prefix(table, hour)]
        # The first has a row even when the hour has only one, in the small hours of the day.
        if fault == "partial":
            sources = [files[1].key]
        elif fault == "twice":
            sources.append(files[0].key)
        loaded = 0
        for source in sources:
            loaded += self.copy(connection, table, source, max_errors=MAX_ERRORS if fault == "load_lost" else 0)
        return loaded

    def copy(self, connection: Any, table: str, source: str, *, max_errors: int = 0) -> int:
        """COPY what is below a prefix; rows that came in."""
        more = f" maxerror {max_errors}" if max_errors else ""
        with closing(connection.cursor()) as cursor:
            try:
                cursor.execute(
                    f"copy {table} from 's3://{self.bucket}/{source}' iam_role '{ROLE}' {OPTIONS[FORMATS[table]]}{more}"
                )
            except Exception as problem:  # the driver's errors are of several kinds
                text = problem.args[0] if problem.args else ""
                raise _LoadFailed(text["M"] if isinstance(text, dict) else str(problem)) from problem
            cursor.execute("select pg_last_copy_count()")
            return int(cursor.fetchone()[0])

    def aggregate(self, connection: Any, first: datetime, last: datetime) -> None:
        """Make the aggregates of these hours (`last` is the first that is not meant) and of their days anew."""
        day, end = first.replace(hour=0), (last - HOUR).replace(hour=0) + timedelta(days=1)
        values = {"first": first, "last": last, "day": day, "end": end}
        texts = {name: f"{value:%Y-%m-%d %H:%M:%S}" for name, value in values.items()}
        with closing(connection.cursor()) as cursor:
            cursor.paramstyle = "named"
            for statement in _statements("aggregate.sql"):
                cursor.execute(statement, {name: text for name, text in texts.items() if f":{name} " in statement})

    def glue_run(
        self, table: str, hour: datetime, state: str, *, error: str | None = None, minutes: float = 4.0,
        started: datetime | None = None,
    ) -> str:  # fmt: skip
        """A run of the pipeline's job for that hour, as it would look now; its id.

        It began `AFTER` the end of the hour and took so many minutes (a timeout: fifty), but not into the future.
        """
        now = datetime.now(UTC)
        started = min(started or hour + HOUR + AFTER, now)
        ended = min(started + timedelta(minutes=50 if state == "TIMEOUT" else minutes), now)
        run = self.glue.start_job_run(JobName=self.job(table), Arguments={"--hour": hour.isoformat()})["JobRunId"]
        order = {"job": self.job(table), "run": run, "state": state, "error": error, "started_on": started.isoformat(),
                 "completed_on": ended.isoformat()}  # fmt: skip
        self.tell_glue([order])
        return str(run)

    def tell_glue(self, orders: Sequence[Mapping[str, Any]]) -> Any:
        """See `dbops_lab.glue`."""
        request = urllib.request.Request(  # noqa: S310
            f"{self._endpoint}/lab/glue", data=json.dumps(list(orders)).encode(), method="POST"
        )
        with direct.open(request, timeout=30) as answer:
            return json.load(answer)

    def forget(self, hour: datetime, tables: Iterable[str] = TABLES) -> None:
        """Remove the rows, files and runs of an hour, as if it had never been."""
        hour = floor_hour(hour)
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            for table in tables:
                cursor.execute(
                    f'delete from {table} where "timestamp" >= %s and "timestamp" < %s',
                    (hour.replace(tzinfo=None), (hour + HOUR).replace(tzinfo=None)),
                )
                found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix(table, hour))
                for entry in found.get("Contents", []):
                    self.s3.delete_object(Bucket=self.bucket, Key=entry["Key"])
                self.tell_glue([
                    {"job": self.job(table), "run": run["Id"], "remove": True}
                    for run in self.runs(table)
                    if run["Arguments"].get("--hour") == hour.isoformat()
                ])

    def runs(self, table: str) -> Iterator[dict[str, Any]]:
        """All runs of a pipeline's job, newest first."""
        for page in self.glue.get_paginator("get_job_runs").paginate(JobName=self.job(table)):
            yield from page["JobRuns"]

    # ------------------------------------------------------------------ the past

    def seed(self, days: int, *, hourly: int = 0) -> dict[str, int]:
        """The events of so many days before the world's `now`, today included; rows by table.

        The last `hourly` hours are run one by one. Of those before, Glue runs and loads stand in the histories and rows
        in the tables, but their files do not exist any more.
        """
        first = (self.world.now - HOUR - timedelta(days=days - 1)).replace(hour=0)
        hours = [first + HOUR * n for n in range(int((self.world.now - first) / HOUR))]
        recent = hours[len(hours) - hourly :] if hourly else []
        old = hours[: len(hours) - len(recent)]
        done = dict.fromkeys(TABLES, 0)
        if old:
            with closing(self.connect()) as connection:
                for table in TABLES:
                    done[table] += self._seed_past(connection, table, old)
                self.aggregate(connection, old[0], old[-1] + HOUR)
        for hour in recent:
            for table, load in self.run(hour).items():
                done[table] += load.loaded
        return done

    def _seed_past(self, connection: Any, table: str, hours: Sequence[datetime]) -> int:
        """By way of another table, as the load that is really done is none of the pipeline's."""
        counts: list[int] = []
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"drop table if exists past_{table}")
            cursor.execute(f"create table past_{table} (like {table})")
            for start in range(0, len(hours), SEEDED_HOURS):
                made = [self.world.hour(hour).rows(table) for hour in hours[start : start + SEEDED_HOURS]]
                counts += [len(one["timestamp"]) for one in made]
                rows = {name: np.concatenate([one[name] for one in made]) for name in made[0]}
                key = f"{self.name}/past/{table}.parquet"
                self.s3.put_object(Bucket=self.bucket, Key=key, Body=_parquet(rows, 0))
                source = f"s3://{self.bucket}/{key}"
                cursor.execute(f"copy past_{table} from '{source}' iam_role '{ROLE}' format as parquet")
                self.s3.delete_object(Bucket=self.bucket, Key=key)
            cursor.execute(f"alter table {table} append from past_{table}")
            cursor.execute(f"drop table past_{table}")
        self.tell_glue([self._succeeded(table, hour) for hour in hours])
        self._plant_loads(table, hours, counts)
        return sum(counts)

    def _succeeded(self, table: str, hour: datetime) -> dict[str, Any]:
        started = hour + HOUR + AFTER
        return {
            "job": self.job(table), "state": "SUCCEEDED", "started_on": started.isoformat(),
            "completed_on": (started + AFTER).isoformat(), "arguments": {"--hour": hour.isoformat()},
        }  # fmt: skip

    def _plant_loads(self, table: str, hours: Sequence[datetime], counts: Sequence[int]) -> None:
        """Loads of the past, as SYS_LOAD_HISTORY would show them."""
        loads, files = [], []
        for hour, count in zip(hours, counts, strict=True):
            started = (hour + HOUR + AFTER * 2).replace(tzinfo=None)
            number = int(hour.timestamp()) // 3600 * len(TABLES) + TABLES.index(table)
            same: dict[str, Any] = {
                "query_id": number * 64 + zlib.crc32(self.name.encode()) % 64,
                "started": started,
                "file_format": FORMATS[table].partition(".")[0].upper(),
            }
            source = f"s3://{self.bucket}/{self.prefix(table, hour)}"
            ended = started + timedelta(seconds=9)
            loads.append({**same, "status": "completed", "table_name": table, "ended": ended, "data_source": source,
                          "loaded_rows": count, "loaded_bytes": count * 90, "files": PARTS, "errors": 0,
                          "database": self._warehouse.schema})  # fmt: skip
            for part in range(PARTS):
                lines = len(range(part, count, PARTS))
                files.append({**same, "at": ended, "filename": source + _part(table, part), "lines": lines,
                              "bytes": lines * 90, "slice": part, "status": "completed"})  # fmt: skip
        tell_redshift(self._control, "/plant", {"kind": "load", "records": loads})
        tell_redshift(self._control, "/plant", {"kind": "load_file", "records": files})


def _part(table: str, part: int) -> str:
    return f"part-{part:04d}.{FORMATS[table]}"


def faults_of(table: str) -> list[str]:
    """What can go wrong with a pipeline."""
    only = {
        "load_lost": FORMATS[table] != "parquet",
        "out_of_range": table in ("bidstream_v2", "impressions", "wins"),
        "orphans": table in ("wins", "clicks"),
        "unknown_campaign": table not in ("users", "dmp_events"),
    }
    return [fault for fault in FAULTS if only.get(fault, True)]


def pick_faults(seed: int, hours: Iterable[datetime], *, share: float = 0.3) -> dict[datetime, dict[str, str]]:
    """Faults for `Etl.run`, by hour and table: the same for the same seed; `share` of the pipelines have one."""
    picks = random.Random(seed)
    return {
        hour: {table: picks.choice(faults_of(table)) for table in TABLES if picks.random() < share} for hour in hours
    }


class _LoadFailed(Exception):
    pass


def _statements(name: str) -> list[str]:
    text = resources.files("dbops_lab.application").joinpath(name).read_text()
    lines = (line for line in text.splitlines() if not line.startswith("--"))
    return [part.strip() for part in "\n".join(lines).split(";\n") if part.strip()]


# ---------------------------------------------------------------------- faults of the data


def _spoiled(
    world: World, table: str, rows: Rows, fault: str | None, picks: random.Random
) -> tuple[Rows, tuple[str, ...]]:
    """The rows with a fault of the data, and the first columns of those that it touched."""
    count = len(rows["timestamp"])
    if fault == "empty":
        return {name: column[:0] for name, column in rows.items()}, ()
    if fault == "few":
        return {name: column[: count // 5] for name, column in rows.items()}, ()
    if fault not in ("repeated", "nulls", "out_of_range", "orphans", "unknown_campaign"):
        return rows, ()
    touched = sorted(picks.sample(range(count), max(1, count // 10)))
    first = next(iter(rows))
    keys = tuple(rows[first][touched])
    if fault == "repeated":
        return {name: np.concatenate([column, column[touched]]) for name, column in rows.items()}, keys
    changed = {name: column.astype(object) for name, column in rows.items()}
    if fault == "nulls":
        changed["order_id" if "order_id" in rows else "user_id"][touched] = None
    elif fault == "out_of_range":
        name = next(name for name in PRICES if name in rows)
        changed[name][touched] = [-picks.randrange(1, PRICE) for _ in touched]
    else:
        name = "impression_id" if fault == "orphans" else "order_id"
        changed[name][touched] = [ident(world.seed, f"unknown/{table}", picks.getrandbits(48)) for _ in touched]
    return changed, keys


# ---------------------------------------------------------------------- files


def _text(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "timestamp":
        return str(datetime.fromtimestamp(int(value) // 1_000_000, UTC).replace(microsecond=int(value) % 1_000_000))[
            :26
        ]
    if name in PRICES:
        return f"{Decimal(int(value)).scaleb(-4):f}"
    return value.item() if isinstance(value, np.generic) else value


def _lines(rows: Rows) -> Iterator[list[Any]]:
    columns = [[_text(name, value) for value in column] for name, column in rows.items()]
    yield from map(list, zip(*columns, strict=True))


def _json(rows: Rows, bad: int) -> bytes:
    lines = [json_text(dict(zip(rows, line, strict=True))) for line in _lines(rows)]
    for number in range(min(bad, len(lines))):
        lines[number] = lines[number].replace('"timestamp":"2', '"timestamp":"never 2')
    return gzip.compress(("\n".join(lines) + "\n").encode() if lines else b"", 1, mtime=0)


def _csv(rows: Rows, bad: int) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows)
    at = list(rows).index("timestamp")
    for number, line in enumerate(_lines(rows)):
        if number < bad:
            line[at] = "never"
        writer.writerow(line)
    return gzip.compress(text.getvalue().encode(), 1, mtime=0)


def _parquet(rows: Rows, bad: int) -> bytes:
    arrays = {}
    for name, column in rows.items():
        values = column.tolist()
        if name == "timestamp":
            arrays[name] = pa.array(values, pa.timestamp("us"))
        elif name in PRICES:
            prices = [None if value is None else Decimal(value).scaleb(-4) for value in values]
            arrays[name] = pa.array(prices, pa.decimal128(12, 4))
        elif name == "has_consent":
            arrays[name] = pa.array(values, pa.bool_())
        else:
            arrays[name] = pa.array(values, pa.int32() if name == "segment_id" else pa.string())
    if bad:  # Parquet has no lines: a column of another type is refused as a whole
        arrays["bid_price"] = pa.array(["never"] * len(values), pa.string())
    body = io.BytesIO()
    pq.write_table(pa.table(arrays), body, compression="zstd")
    return body.getvalue()


_FORMS: Mapping[str, Callable[[Rows, int], bytes]] = {"json.gz": _json, "csv.gz": _csv, "parquet": _parquet}
