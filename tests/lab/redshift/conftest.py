"""A connection and a schema of its own for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from dbops_lab.testing import LabRedshift


@pytest.fixture
def redshift(lab_redshift: LabRedshift) -> Iterator[Any]:
    """A connection of the real driver that commits each statement, in an empty schema."""
    connection = lab_redshift.connect()
    cursor = connection.cursor()
    schema = f"test_{secrets.token_hex(4)}"
    cursor.execute(f"CREATE SCHEMA {schema}")
    cursor.execute(f"SET search_path TO {schema}, public")
    connection.schema = schema
    yield connection
    cursor.execute(f"DROP SCHEMA {schema} CASCADE")
    connection.close()
