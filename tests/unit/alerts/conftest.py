from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before anything imports airflow: it writes its configuration into this folder.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-of-tests-"))

import pytest
from dbops.connections import ConnectionInfo
from dbops.ledger import connect, migrate, transaction
from dbops.ledger.models import Incident
from dbops.platform import Platform, load_platform
from dbops_lab import connections
from dbops_lab.supervisor import free_port
from dbops_lab.testing import LabPostgres, LabReceivers
from sqlalchemy import Engine, select


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("DBOPS_PLATFORM", "lab")
    return load_platform()


@pytest.fixture
def ledger(
    lab_postgres: LabPostgres,
    receivers: LabReceivers,
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
) -> Engine:
    """A ledger of its own. Airflow finds it, and the receivers, under the connection ids of the lab's platform."""
    for name, value in receivers.environment.items():
        monkeypatch.setenv(name, value)
    info = lab_postgres.new_database()
    password = lab_postgres.server.passwords["dbops_ledger"]
    made = {"dbops_ledger": connections.postgres(lab_postgres.port, "dbops_ledger", password, info.schema)}
    for name, value in connections.variables(made).items():
        monkeypatch.setenv(name, value)
    engine = connect(info)
    migrate(engine)
    return engine


@pytest.fixture
def dead_ledger() -> Engine:
    """Nobody listens there."""
    return connect(ConnectionInfo("dbops_ledger", host="127.0.0.1", port=free_port(), login="u", password="pw"))


@pytest.fixture
def incidents(ledger: Engine) -> Callable[[], list[Incident]]:
    def read() -> list[Incident]:
        with transaction(ledger) as session:
            session.expire_on_commit = False
            return list(session.scalars(select(Incident).order_by(Incident.id)))

    return read


@pytest.fixture
def root() -> Path:
    return Path(__file__).parents[3]
