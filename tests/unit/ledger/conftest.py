from __future__ import annotations

import pytest
from dbops.ledger import connect, migrate
from dbops_lab.testing import LabPostgres
from sqlalchemy import Engine


@pytest.fixture
def empty_ledger(lab_postgres: LabPostgres) -> Engine:
    """A database of its own without any table."""
    return connect(lab_postgres.new_database())


@pytest.fixture
def ledger(empty_ledger: Engine) -> Engine:
    migrate(empty_ledger)
    return empty_ledger
