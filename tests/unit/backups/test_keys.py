"""The backup key: from a connection's password, a file or Secrets Manager; errors name the place and never the key."""

from __future__ import annotations

import base64
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from backup_samples import s3_connection
from botocore.config import Config
from cipher_samples import OTHER_PEM, PEM, leaks
from dbops.backups.cipher import NO_KEYS, KeyUnusable, key_from_pem
from dbops.backups.keys import SecretUnavailable, load_keys
from dbops.backups.manifest import EncryptionMode
from dbops.connections import ConnectionInfo, ConnectionMissing, from_env
from dbops.errors import FinalError
from dbops.platform import BackupEncryption
from dbops.redact import redact
from dbops_lab.fault_proxy import ALWAYS, Fault, FaultProxy

REGION = "us-east-1"


@dataclass
class Place:
    """A platform's storage and its connections."""

    encryption: BackupEncryption | None
    infos: dict[str, ConnectionInfo]
    connection: str = "dbops_s3"
    region: str = REGION

    def find(self, conn_id: str) -> ConnectionInfo:
        if conn_id not in self.infos:
            raise ConnectionMissing(f"connection {conn_id} is not there")
        return self.infos[conn_id]


def place(mode: EncryptionMode = "aes128", older: tuple[str, ...] = (), **infos: dict[str, Any]) -> Place:
    made = {conn_id: ConnectionInfo(conn_id, "generic", **values) for conn_id, values in infos.items()}
    return Place(BackupEncryption(mode=mode, connection="key", older_keys=older), made)


@pytest.fixture
def secret(moto_endpoint: str) -> Callable[..., str]:
    """Stores a secret in Secrets Manager; its name."""
    client: Any = boto3.client(
        "secretsmanager",
        endpoint_url=moto_endpoint,
        region_name=REGION,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(proxies={}),
    )

    def secret(**value: Any) -> str:
        name = f"dbops/{secrets.token_hex(6)}"
        client.create_secret(Name=name, **value)
        return name

    return secret


def test_without_encryption_there_are_no_keys_and_no_connection_is_asked() -> None:
    assert load_keys(Place(None, {}), Place(None, {}).find) is NO_KEYS


@pytest.mark.parametrize("mode", ["aes128", "aes256"])
def test_the_password_of_a_connection(mode: EncryptionMode) -> None:
    there = place(mode, key={"password": PEM.decode()})
    assert load_keys(there, there.find).current == key_from_pem(PEM, mode)


def test_a_password_in_the_environment_as_json_or_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    there = place()
    quoted = "".join(f"%{byte:02X}" for byte in PEM)
    for text in (json.dumps({"conn_type": "generic", "password": PEM.decode()}), f"generic://:{quoted}@"):
        monkeypatch.setenv("AIRFLOW_CONN_KEY", text)
        assert load_keys(there, from_env).current == key_from_pem(PEM, "aes128")


def test_a_key_file(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(PEM)
    there = place(key={"extra": {"key_file": str(file)}})
    assert load_keys(there, there.find).current == key_from_pem(PEM, "aes128")


@pytest.mark.parametrize("value", [{"SecretString": PEM.decode()}, {"SecretBinary": PEM}])
def test_a_secret_of_secrets_manager(moto_endpoint: str, secret: Callable[..., str], value: dict[str, Any]) -> None:
    there = place(key={"extra": {"secret_id": secret(**value)}})
    there.infos["dbops_s3"] = s3_connection(moto_endpoint)
    assert load_keys(there, there.find).current == key_from_pem(PEM, "aes128")


def test_older_keys_open_older_backups(tmp_path: Path) -> None:
    (tmp_path / "old.pem").write_bytes(OTHER_PEM)
    older = {"extra": {"key_file": str(tmp_path / "old.pem")}}
    there = place("aes256", ("old",), key={"password": PEM.decode()}, old=older)
    keys = load_keys(there, there.find)
    assert keys.current == key_from_pem(PEM, "aes256")
    old = key_from_pem(OTHER_PEM, "aes128")
    assert keys.find(old.encryption) == old


def test_an_older_key_that_is_gone_is_warned_of_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    there = place("aes256", ("gone", "bad"), key={"password": PEM.decode()}, bad={"password": PEM.decode()[:300]})
    with caplog.at_level(logging.WARNING):
        assert load_keys(there, there.find).current == key_from_pem(PEM, "aes256")
    gone, bad = caplog.messages
    assert gone.endswith("cannot be read: connection gone is not there")
    assert "cannot be read: connection bad (in its password): the PEM file is not whole" in bad
    assert not leaks(caplog.text)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({}, "connection key: holds no backup key; put the PEM into its password, or"),
        (
            {"password": "x", "extra": {"key_file": "/y"}},
            "connection key: holds more than one place for",
        ),
        (
            {"extra": {"key_file": "/no/such/key.pem"}},
            "connection key: key file /no/such/key.pem cannot be read: No",
        ),
        ({"extra": {"key_file": "/"}}, "connection key: key file / cannot be read: Is a directory"),
        ({"password": PEM.decode().replace("MII", "M", 1)}, "connection key (in its password): the PEM file "),
        ({"password": PEM.decode()[:-30]}, "connection key (in its password): the PEM file is not whole"),
    ],
)
def test_a_connection_that_holds_no_key_is_refused(info: dict[str, Any], reason: str) -> None:
    there = place(key=info)
    with pytest.raises(KeyUnusable) as caught:
        load_keys(there, there.find)
    assert str(caught.value).startswith(reason)
    assert redact(str(caught.value)) == str(caught.value)  # nothing in it looks like a secret either
    assert not leaks(str(caught.value))


def test_a_missing_connection_is_said() -> None:
    there = place()
    with pytest.raises(ConnectionMissing, match="connection key is not there"):
        load_keys(there, there.find)


class TestSecretsManager:
    def test_a_secret_that_is_not_there(self, moto_endpoint: str) -> None:
        there = place(key={"extra": {"secret_id": "no/such"}})
        there.infos["dbops_s3"] = s3_connection(moto_endpoint)
        with pytest.raises(KeyUnusable) as caught:
            load_keys(there, there.find)
        assert redact(str(caught.value)) == str(caught.value)
        assert "read secret no/such of Secrets Manager in us-east-1: it was refused (ResourceNotFound" in str(
            caught.value
        )
        assert "whether connection dbops_s3 has the right GetSecretValue on it" in str(caught.value)

    def test_a_secret_that_is_something_else_is_not_repeated(
        self, moto_endpoint: str, secret: Callable[..., str]
    ) -> None:
        there = place(key={"extra": {"secret_id": secret(SecretString='{"pem": "hunter2"}')}})
        there.infos["dbops_s3"] = s3_connection(moto_endpoint)
        with pytest.raises(
            KeyUnusable, match=r"connection key \(in secret dbops/.*\): the text without BEGIN"
        ) as caught:
            load_keys(there, there.find)
        assert "hunter2" not in str(caught.value)

    def test_a_service_that_is_busy_or_away_may_be_asked_again(
        self, moto_endpoint: str, secret: Callable[..., str]
    ) -> None:
        there = place(key={"extra": {"secret_id": secret(SecretString=PEM.decode())}})
        patience = {"retries": {"mode": "standard", "total_max_attempts": 1}, "connect_timeout": 1}
        with FaultProxy(int(moto_endpoint.rpartition(":")[2])) as proxy:
            there.infos["dbops_s3"] = s3_connection(proxy.url, config_kwargs=patience)
            proxy.order(Fault("POST", times=ALWAYS, status=503))
            with pytest.raises(SecretUnavailable, match="try again"):
                load_keys(there, there.find)
            proxy.clear()
            assert load_keys(there, there.find).current
        with pytest.raises(SecretUnavailable, match=r"no answer .*Endpoint.*; check the network"):
            load_keys(there, there.find)

    def test_no_right_is_final(self, moto_endpoint: str) -> None:
        there = place(key={"extra": {"secret_id": "x"}})
        with FaultProxy(int(moto_endpoint.rpartition(":")[2])) as proxy:
            there.infos["dbops_s3"] = s3_connection(proxy.url)
            proxy.order(Fault("POST", times=ALWAYS, status=403))
            with pytest.raises(FinalError, match="it was refused "):
                load_keys(there, there.find)


def test_nothing_that_is_loaded_shows_the_key() -> None:
    there = place(key={"password": PEM.decode()})
    shown = repr(load_keys(there, there.find)) + repr(there)
    assert not leaks(shown)
    assert base64.b64encode(PEM).decode()[:20] not in shown
