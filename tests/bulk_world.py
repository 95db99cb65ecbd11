"""COPY and UNLOAD against a real PostgreSQL session and the lab's S3, without the proxy in between."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from dbops_lab.redshift import copy, unload
from dbops_lab.redshift.backend import BackendError, Column
from dbops_lab.redshift.bulk import Session, list_objects
from dbops_lab.testing import LabPostgres, LabS3

ROLE = "iam_role 'arn:aws:iam::123456789012:role/lab'"


class PsycopgBackend:
    """A server session of psycopg."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def query(self, sql: str) -> tuple[list[Column], list[tuple[str | None, ...]]]:
        with self.connection.cursor() as cursor:
            try:
                cursor.execute(sql.encode())
            except psycopg.Error as error:
                raise refused(error) from error
            result = cursor.pgresult
            assert result is not None
            columns = [
                Column((result.fname(i) or b"").decode(), result.ftype(i), result.fmod(i))
                for i in range(result.nfields)
            ]
            return columns, [
                tuple(None if (v := result.get_value(row, i)) is None else v.decode() for i in range(result.nfields))
                for row in range(result.ntuples)
            ]

    def copy_in(self, sql: str, blocks: Iterable[bytes]) -> int:
        with self.connection.cursor() as cursor:
            try:
                with cursor.copy(sql.encode()) as stream:
                    for block in blocks:
                        stream.write(block)
            except psycopg.Error as error:
                raise refused(error) from error
            return cursor.rowcount

    def copy_out(self, sql: str) -> Iterator[bytes]:
        with self.connection.cursor() as cursor:
            try:
                with cursor.copy(sql.encode()) as stream:
                    while rows := stream.read():
                        yield bytes(rows)
            except psycopg.Error as error:
                raise refused(error) from error


def refused(error: psycopg.Error) -> BackendError:
    return BackendError(error.sqlstate or "XX000", error.diag.message_primary or str(error))


class World:
    """A database and a prefix of its own."""

    def __init__(self, postgres: LabPostgres, s3: LabS3) -> None:
        self.s3 = s3
        self.client = s3.client
        info = postgres.new_database()
        self.connection = psycopg.connect(
            host=info.host, port=info.port, user=info.login, password=info.password, dbname=info.schema, autocommit=True
        )
        self.backend = PsycopgBackend(self.connection)
        self.renew()

    def renew(self) -> None:
        """An empty database, an empty prefix, a session without faults."""
        self.connection.rollback()
        self.connection.execute("drop schema public cascade; create schema public")
        self.prefix = self.s3.new_prefix()
        self.url = f"s3://{self.s3.bucket}/{self.prefix}"
        self.session = Session(user="lab", query_id=100)

    def close(self) -> None:
        self.connection.close()

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def unload(self, query: str, options: str = "", to: str = "/") -> unload.UnloadDone:
        """UNLOAD of the query below the world's prefix."""
        statement = f"UNLOAD ($lab${query}$lab$) TO '{self.url}{to}' {ROLE} {options}"
        return unload.run(statement, self.backend, self.client, self.session)

    def copy(self, table: str, options: str = "", source: str = "/") -> copy.CopyDone:
        """COPY from below the world's prefix."""
        statement = f"COPY {table} FROM '{self.url}{source}' {ROLE} {options}"
        return copy.run(statement, self.backend, self.client, self.session)

    def load(self, body: str | bytes, table: str, options: str = "") -> copy.CopyDone:
        """COPY of one file with this text."""
        self.put("loaded", body)
        return self.copy(table, options, "/loaded")

    def put(self, name: str, body: str | bytes) -> None:
        body = body.encode() if isinstance(body, str) else body
        self.client.put_object(Bucket=self.s3.bucket, Key=f"{self.prefix}/{name}", Body=body)

    def get(self, name: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.s3.bucket, Key=f"{self.prefix}/{name}")["Body"].read()
        return body

    def names(self, below: str = "") -> list[str]:
        """Keys below the world's prefix, without it."""
        prefix = f"{self.prefix}/"
        return [found.key.removeprefix(prefix) for found in list_objects(self.client, self.s3.bucket, prefix + below)]

    def manifest(self, name: str = "manifest") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get(name))
        return found

    def parquet(self, name: str) -> pa.Table:
        return pq.ParquetFile(io.BytesIO(self.get(name))).read()
