from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from backup_samples import s3_connection
from dbops.backups.store import LocalStore, S3Store, Store
from moto.server import ThreadedMotoServer


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def connect_s3(moto_endpoint: str) -> Callable[..., S3Store]:
    """Opens a bucket of its own; keywords are connection extras."""

    def connect(prefix: str = "", **extra: Any) -> S3Store:
        store = S3Store(f"bucket-{secrets.token_hex(6)}", prefix, s3_connection(moto_endpoint, **extra))
        store.client.create_bucket(Bucket=store.bucket)
        return store

    return connect


@pytest.fixture
def s3(connect_s3: Callable[..., S3Store]) -> S3Store:
    return connect_s3("some where/ü")


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture(params=["s3", "local"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found
