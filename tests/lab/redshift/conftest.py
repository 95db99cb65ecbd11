"""What the tests of the Redshift stand-in start with."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from bulk_world import World
from dbops_lab.testing import LabPostgres, LabRedshift, LabS3


@pytest.fixture(scope="module")
def _world(lab_postgres: LabPostgres, lab_s3: LabS3) -> Iterator[World]:
    made = World(lab_postgres, lab_s3)
    yield made
    made.close()


@pytest.fixture
def world(_world: World) -> World:
    """COPY and UNLOAD without the proxy: one database, emptied for each test, and a prefix of its own."""
    _world.renew()
    return _world


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
