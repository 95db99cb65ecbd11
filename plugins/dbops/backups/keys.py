"""Where the backup key comes from: the connections that `storage.encryption` names, a file, AWS Secrets Manager."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from dbops.backups.cipher import NO_KEYS, Keys, KeyUnusable, key_from_pem
from dbops.backups.manifest import EncryptionMode
from dbops.backups.store import aws_client
from dbops.connections import ConnectionInfo
from dbops.errors import FinalError, RetryableError

log = logging.getLogger(__name__)

_LARGEST = 1 << 16
_BUSY = {"InternalServiceError", "InternalFailure", "ServiceUnavailable", "ThrottlingException", "RequestTimeout"}
_PLACES = "put the PEM into its password, or name a file in extra `key_file`, or a secret in extra `secret_id`"


class SecretUnavailable(RetryableError):
    """Secrets Manager did not answer, or was busy."""


class EncryptionSettings(Protocol):
    """What `platform.BackupEncryption` says."""

    @property
    def mode(self) -> EncryptionMode: ...

    @property
    def connection(self) -> str: ...

    @property
    def older_keys(self) -> Sequence[str]: ...


class KeyStorage(Protocol):
    """What `platform.Storage` says that matters here."""

    @property
    def connection(self) -> str: ...

    @property
    def region(self) -> str: ...

    @property
    def encryption(self) -> EncryptionSettings | None: ...


def load_keys(storage: KeyStorage, connection: Callable[[str], ConnectionInfo]) -> Keys:
    """The keys that the platform's storage names; `NO_KEYS` when it does not encrypt.

    An older key that is gone is only warned of: new backups do not need it, and what does will say so.

    :param connection: finds a connection by its id (`connections.from_env`, or the adapter's in Airflow).
    :raises KeyUnusable: the connection in use leads to no key that can be used.
    :raises ConnectionMissing: there is no such connection.
    :raises SecretUnavailable: Secrets Manager cannot be reached.
    """
    encryption = storage.encryption
    if encryption is None:
        return NO_KEYS
    current = _pem(storage, connection, encryption.connection, encryption.mode)
    older = []
    for conn_id in encryption.older_keys:
        try:
            older.append(_pem(storage, connection, conn_id, encryption.mode))
        except FinalError as problem:
            log.warning("an older backup key is not usable, so what was encrypted with it cannot be read: %s", problem)
    return Keys.of(encryption.mode, current, older)


def _pem(storage: KeyStorage, connection: Callable[[str], ConnectionInfo], conn_id: str, mode: EncryptionMode) -> bytes:
    info = connection(conn_id)
    file, secret = info.extra.get("key_file"), info.extra.get("secret_id")
    given = [bool(info.password), bool(file), bool(secret)]
    if sum(given) != 1:
        found = "more than one place for the backup key" if any(given) else "no backup key"
        raise KeyUnusable(f"connection {conn_id}: holds {found}; {_PLACES}")
    if info.password:
        pem, place = info.password.encode(), "in its password"
    elif file:
        pem, place = _from_file(conn_id, str(file)), f"in file {file}"
    else:
        pem, place = _from_secret(conn_id, str(secret), storage, connection), f"in secret {secret}"
    try:
        key_from_pem(pem, mode)
    except KeyUnusable as problem:
        raise KeyUnusable(f"connection {conn_id} ({place}): {problem}") from None
    return pem


def _from_file(conn_id: str, name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise KeyUnusable(
            f"connection {conn_id}: key file {name} cannot be read: {error.strerror}; mount it on every worker"
        ) from None


def _from_secret(conn_id: str, secret: str, storage: KeyStorage, connection: Callable[[str], ConnectionInfo]) -> bytes:
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    what = f"connection {conn_id}: read secret {secret} of Secrets Manager in {storage.region}"
    client = aws_client(connection(storage.connection), storage.region, "secretsmanager")
    try:
        answer = client.get_secret_value(SecretId=secret)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _BUSY or status >= 500:
            raise SecretUnavailable(f"{what}: {code}; try again") from None
        raise KeyUnusable(
            f"{what}: it was refused ({code}); check its name, and whether connection {storage.connection} "
            "has the right GetSecretValue on it and kms:Decrypt on its KMS key (include/iam)"
        ) from None
    except NoCredentialsError:
        raise KeyUnusable(f"{what}: no credentials were found; set them in connection {storage.connection}") from None
    except BotoCoreError as error:
        raise SecretUnavailable(
            f"{what}: no answer ({type(error).__name__}); check the network, then try again"
        ) from None
    text: str | None = answer.get("SecretString")
    return text.encode() if text is not None else bytes(answer["SecretBinary"])
