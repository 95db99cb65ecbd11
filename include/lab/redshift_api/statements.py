"""`redshift-data`: statements that run on the stand-in, over the real driver, and are asked for by their id."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any

from dbops_lab.redshift_api.clusters import ADDRESS, warehouses
from dbops_lab.redshift_api.data import Place
from dbops_lab.redshift_api.json_service import ServiceError

PAGE = 100
LONGEST_WAIT = 30
TYPES = {
    16: "bool", 18: "char", 19: "name", 20: "int8", 21: "int2", 23: "int4", 25: "text", 26: "oid", 700: "float4",
    701: "float8", 705: "unknown", 1033: "aclitem", 1042: "bpchar", 1043: "varchar", 1082: "date", 1083: "time",
    1114: "timestamp", 1184: "timestamptz", 1700: "numeric", 4000: "super",
}  # fmt: skip
ENDED = ("FINISHED", "FAILED", "ABORTED")


def invalid(text: str) -> ServiceError:
    return ServiceError("ValidationException", text)


@dataclass
class Statement:
    sql: str
    session: str | None
    where: dict[str, str]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "SUBMITTED"
    error: str = ""
    pid: int = 0
    rows: int = -1
    columns: list[dict[str, Any]] = field(default_factory=list)
    records: list[list[dict[str, Any]]] = field(default_factory=list)
    has_result: bool = False
    created: float = field(default_factory=time.time)
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass
class Session:
    """A connection that outlives its statements for a while."""

    connection: Any
    place: Place
    login: tuple[str, str]
    keep: float
    pid: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    is_busy: bool = False
    used: float = field(default_factory=time.monotonic)


class DataApi:
    """Statements and sessions of this process. Logins come from Secrets Manager, which is moto's.

    :param secret: text of a secret, by its ARN or name.
    """

    def __init__(self, secret: Callable[[str], str], places: Callable[[dict[str, Any]], Place]) -> None:
        self._secret, self._places = secret, places
        self._statements: dict[str, Statement] = {}
        self._tokens: dict[str, str] = {}
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def operation(self, name: str) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        return {
            "ExecuteStatement": self.execute,
            "DescribeStatement": self.describe,
            "GetStatementResult": self.result,
            "CancelStatement": self.cancel,
        }.get(name)

    # ------------------------------------------------------------------ execute

    def execute(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            known = self._tokens.get(asked.get("ClientToken", ""))
        if known is not None:
            return self._told(self._statements[known])
        for parameter in asked.get("Parameters", ()):
            if not parameter["value"]:
                raise invalid("Parameter value must not be empty")
        session = self._session(asked)
        statement = Statement(asked["Sql"], session.id if session.keep else None, _where(asked), pid=session.pid)
        with self._lock:
            self._statements[statement.id] = statement
            if token := asked.get("ClientToken"):
                self._tokens[token] = statement.id
        parameters = {item["name"]: item["value"] for item in asked.get("Parameters", ())}
        threading.Thread(target=self._run, args=(statement, session, parameters), daemon=True).start()
        self._wait(statement, asked)
        return self._told(statement)

    def _told(self, statement: Statement) -> dict[str, Any]:
        found = {"Id": statement.id, "CreatedAt": statement.created, "Status": statement.status, **statement.where}
        return found | ({"SessionId": statement.session} if statement.session else {})

    def _session(self, asked: dict[str, Any]) -> Session:
        self._end_old_sessions()
        if id := asked.get("SessionId"):
            with self._lock:
                found = self._sessions.get(id)
                if found is None:
                    raise invalid(f"Session {id} is not available")
                if found.is_busy:
                    raise ServiceError("ActiveStatementsExceededException", f"Session {id} has an active statement")
                found.is_busy, found.keep = True, float(asked.get("SessionKeepAliveSeconds", found.keep))
            return found
        if not asked.get("SecretArn"):
            raise invalid("the lab takes a login from SecretArn only")
        try:
            login = json.loads(self._secret(asked["SecretArn"]))
        except (ValueError, KeyError):
            raise invalid("The secret holds no username and password") from None
        place = self._places(asked)
        if asked.get("Database") != place.database:
            raise invalid(f"Database {asked.get('Database')} does not exist")
        made = self._connected(place, (login["username"], login["password"]), asked)
        with self._lock:
            self._sessions[made.id] = made
        return made

    def _connected(self, place: Place, login: tuple[str, str], asked: dict[str, Any]) -> Session:
        import redshift_connector

        try:
            connection = _connect(place, login)
        except redshift_connector.error.Error as error:
            raise ServiceError("DatabaseConnectionException", _text(error)) from None
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pid = int(cursor.fetchone()[0])
        keep = float(asked.get("SessionKeepAliveSeconds", 0))
        return Session(connection, place, login, keep, pid, is_busy=True)

    def _end_old_sessions(self) -> None:
        with self._lock:
            over = [
                item
                for item in self._sessions.values()
                if not item.is_busy and time.monotonic() > item.used + item.keep
            ]
            for item in over:
                del self._sessions[item.id]
        for item in over:
            with contextlib.suppress(Exception):
                item.connection.close()

    def _run(self, statement: Statement, session: Session, parameters: dict[str, str]) -> None:
        import redshift_connector

        statement.status = "STARTED"
        status = "FINISHED"
        try:
            with session.connection.cursor() as cursor:
                cursor.paramstyle = "named" if parameters else "qmark"
                cursor.execute(statement.sql, parameters or None)
                statement.rows = int(cursor.rowcount)
                if cursor.description:
                    statement.columns = [_column(found) for found in cursor.description]
                    statement.records = [[_field(value) for value in row] for row in cursor.fetchall()]
                    statement.rows, statement.has_result = len(statement.records), True
        except redshift_connector.error.Error as error:
            statement.error = f"ERROR: {_text(error)}"
            status = "ABORTED" if "57014" in str(error) else "FAILED"
        except Exception as error:
            statement.error, status = f"ERROR: {type(error).__name__}: {error}", "FAILED"
        session.is_busy, session.used = False, time.monotonic()
        statement.status = status
        statement.ended.set()
        self._end_old_sessions()

    def _wait(self, statement: Statement, asked: dict[str, Any]) -> None:
        if seconds := int(asked.get("WaitTimeSeconds") or 0):
            statement.ended.wait(min(seconds, LONGEST_WAIT))

    # ------------------------------------------------------------------ what became of it

    def describe(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self._statement(asked["Id"])
        self._wait(found, asked)
        status = found.status
        told = {
            "Id": found.id, "Status": status, "CreatedAt": found.created, "UpdatedAt": time.time(),
            "RedshiftPid": found.pid, "QueryString": found.sql, "HasResultSet": found.has_result,
            "ResultRows": found.rows,
            "Duration": int((time.time() - found.created) * 1e9) if status in ENDED else -1, **found.where,
        }  # fmt: skip
        if found.session:
            told["SessionId"] = found.session
        return told | ({"Error": found.error} if found.error else {})

    def result(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self._statement(asked["Id"])
        if found.status != "FINISHED" or not found.has_result:
            raise ServiceError("ResourceNotFoundException", "Query does not have result. Please check query status")
        first = int(asked.get("NextToken") or 0)
        told: dict[str, Any] = {
            "ColumnMetadata": found.columns,
            "Records": found.records[first : first + PAGE],
            "TotalNumRows": len(found.records),
        }
        return told | ({"NextToken": str(first + PAGE)} if first + PAGE < len(found.records) else {})

    def cancel(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self._statement(asked["Id"])
        if found.status in ENDED:
            raise invalid(f"Could not cancel a query that is already in {found.status} state with ID: {found.id}")
        session = next(item for item in self._sessions.values() if item.pid == found.pid)
        connection = _connect(session.place, session.login)
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"CANCEL {found.pid}")
        finally:
            connection.close()
        return {"Status": True}

    def _statement(self, id: str) -> Statement:
        found = self._statements.get(id)
        if found is None:
            raise ServiceError("ResourceNotFoundException", "Query does not exist.")
        return found


def place_of(serverless: Any) -> Callable[[dict[str, Any]], Place]:
    """Where the data is that a request means."""

    def found(asked: dict[str, Any]) -> Place:
        if name := asked.get("WorkgroupName"):
            if name not in serverless.workgroups:
                raise invalid(f"Redshift endpoint doesn't exist in this region: {name}")
            name = serverless.workgroups[name]["namespaceName"]
        else:
            name = asked.get("ClusterIdentifier", "")
        if name not in warehouses.places:
            raise invalid(f"Redshift endpoint doesn't exist in this region: {name}")
        return warehouses.places[name]

    return found


def _connect(place: Place, login: tuple[str, str]) -> Any:
    import redshift_connector

    connection = redshift_connector.connect(
        host=ADDRESS, port=place.port, database=place.database, user=login[0], password=login[1], ssl=False
    )
    connection.autocommit = True
    return connection


def _where(asked: dict[str, Any]) -> dict[str, str]:
    names = ("ClusterIdentifier", "WorkgroupName", "Database", "SecretArn")
    return {name: asked[name] for name in names if asked.get(name)}


def _text(error: Exception) -> str:
    found = error.args[0] if error.args else ""
    return str(found.get("M", found)) if isinstance(found, dict) else str(found or error)


def _column(found: Any) -> dict[str, Any]:
    name = found[0].decode() if isinstance(found[0], bytes) else found[0]
    return {"name": name, "label": name, "typeName": TYPES.get(int(found[1]), "varchar"), "nullable": 1}


def _field(value: Any) -> dict[str, Any]:
    if value is None:
        return {"isNull": True}
    if isinstance(value, bool):
        return {"booleanValue": value}
    if isinstance(value, int):
        return {"longValue": value}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, bytes):
        return {"blobValue": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        text = re.sub(r"([+-]\d\d):00$", r"\1", value.isoformat(" "))
        return {"stringValue": text}
    if isinstance(value, date | time_of_day | Decimal):
        return {"stringValue": str(value)}
    return {"stringValue": value if isinstance(value, str) else json.dumps(value)}
