"""Encrypted backups of a whole namespace: taken, verified and read back, through changes of the key.

With ASBACKUP and ASRESTORE (paths of the official programs) each side's encrypted files are read by the other's.
"""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
import yaml
from backup_world import (
    FULL,
    INCREMENTAL,
    LOOPBACK,
    World,
    connect,
    digest_of,
    partition_of,
    rows,
    s3_store,
    settle,
    world,
)
from cipher_samples import GOLDEN, OTHER_PEM, PEM, leaks
from dbops.aerospike import asb, backup
from dbops.aerospike.digests import InventoryDamaged
from dbops.backups import catalog
from dbops.backups.cipher import NO_KEYS, KeyMissing, Keys, WrongKey, check_start, decrypt, key_from_pem
from dbops.backups.manifest import EncryptionMode, Manifest
from dbops.backups.verify import verify
from dbops.cli import app
from dbops.platform.load import DIRECTORY
from dbops_lab import connections
from dbops_lab.aerospike.process import StandIn
from dbops_lab.testing import LabS3
from restore_world import held, planned, restored
from typer.testing import CliRunner, Result

SPACES = [f"space{number}" for number in range(20)]
_next = count()
ASBACKUP, ASRESTORE = os.environ.get("ASBACKUP"), os.environ.get("ASRESTORE")
NEW = Keys.of("aes256", PEM)
OLD = Keys.of("aes128", OTHER_PEM)
ROTATED = Keys.of("aes256", PEM, [OTHER_PEM])
RECORDS = 3000


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(namespaces=SPACES) as stand_in:
        yield stand_in


@pytest.fixture
def lab(server: StandIn, lab_s3: LabS3) -> World:
    """A namespace with records, S3, and a key."""
    space = SPACES[next(_next)]
    server.load(space, "s", rows(range(RECORDS)), datetime.now(UTC) - timedelta(hours=1))
    return world(server, s3_store(lab_s3), space, keys=NEW)


def change(server: StandIn, lab: World) -> set[bytes]:
    """Three records come and three go; what went."""
    settle()
    server.load(lab.namespace, "s", rows(range(RECORDS, RECORDS + 3)))
    gone = [5, 70, 800]
    with closing(connect(server.ports[0])) as client:
        for number in gone:
            client.remove((lab.namespace, "s", None, bytearray(digest_of(number))))
    settle()
    return {digest_of(number) for number in gone}


def whole(lab: World, manifest: Manifest) -> bool:
    report = verify(lab.store, catalog.find(lab.store, lab.cluster_name, lab.namespace, manifest.id), keys=lab.keys)
    assert report.problems == []
    return report.conclusive


def test_a_full_and_an_incremental_with_deletes_come_back(
    server: StandIn, lab: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="dbops")
    full = lab.backup(track_deletes=True)
    gone = change(server, lab)
    incremental = lab.backup(INCREMENTAL, track_deletes=True)
    assert (full.kind, incremental.kind, incremental.parent) == (FULL, INCREMENTAL, full.id)
    for manifest in (full, incremental):
        assert manifest.encryption == NEW.encryption
        assert whole(lab, manifest)
    everything = {digest_of(number) for number in range(RECORDS)}
    added = {digest_of(number) for number in range(RECORDS, RECORDS + 3)}
    assert lab.digests(full) == lab.digests(full, "digests") == everything
    assert lab.digests(incremental) == added
    assert lab.digests(incremental, "deleted") == gone
    assert lab.digests(incremental, "digests") == everything - gone | added

    assert not leaks(caplog.text)
    prefix = f"aerospike/{lab.cluster_name}/{lab.namespace}/"
    for item in lab.store.list(prefix):
        data = lab.store.get(item.key)
        assert not leaks(data.decode("latin-1")), item.key
        if not item.key.endswith(".json"):
            assert not data.startswith((b"Version", b"\x28\xb5\x2f\xfd")), item.key
            assert digest_of(100) not in data


def test_noise_in_the_inventory_of_the_parent_does_not_become_deletes(server: StandIn, lab: World) -> None:
    full = lab.backup(track_deletes=True)
    change(server, lab)
    plan = lab.plan(INCREMENTAL, track_deletes=True)
    name = next(entry.name for entry in full.objects if entry.role == "digests")
    data = bytearray(lab.store.get(full.prefix + name))
    data[3] ^= 1  # a bit of the header: all that follows decrypts to something else
    lab.store.put(full.prefix + name, bytes(data))
    with pytest.raises(InventoryDamaged, match=f"{name}: those at 0 are not of partition"):
        lab.run(plan)
    assert lab.listed == [full.id]


def test_a_key_is_rotated_within_a_chain_while_the_old_one_is_known(server: StandIn, lab: World) -> None:
    lab.keys = OLD
    full = lab.backup(track_deletes=True)
    gone = change(server, lab)
    lab.keys = ROTATED
    incremental = lab.backup(INCREMENTAL, track_deletes=True)
    assert (full.encryption, incremental.encryption) == (OLD.encryption, NEW.encryption)
    assert incremental.parent == full.id
    assert lab.digests(incremental, "deleted") == gone
    assert whole(lab, full)
    assert whole(lab, incremental)


def test_a_chain_of_several_keys_is_restored_and_refused_when_one_is_missing(server: StandIn, lab: World) -> None:
    lab.keys = NO_KEYS
    lab.backup(track_deletes=True)
    for keys, changes in ((OLD, range(40)), (ROTATED, range(20, 60))):
        settle()
        server.load(lab.namespace, "s", rows(changes, 80))
        with closing(connect(server.ports[0])) as client:
            client.remove((lab.namespace, "s", None, bytearray(digest_of(changes.stop + 1000))))
        lab.keys = keys
        lab.backup(INCREMENTAL, track_deletes=True)
    kinds = [point.manifest.encryption for point in lab.points]
    assert kinds == [None, OLD.encryption, NEW.encryption]
    target = SPACES[next(_next)]
    outcomes = restored(lab, server, target)
    wanted = held(server, lab.namespace)
    assert held(server, target) == wanted
    assert (outcomes.inserted, outcomes.deleted, len(wanted)) == (RECORDS - 2, 2, RECORDS - 2)
    for keys in (OLD, NEW, NO_KEYS):
        lab.keys = keys
        with pytest.raises((WrongKey, KeyMissing), match=lab.namespace):
            planned(lab, server, target, holder="another")


@pytest.mark.parametrize(("keys", "track_deletes"), [(NEW, True), (NO_KEYS, False)], ids=["another key", "no key"])
def test_a_chain_whose_key_is_not_known_any_more_is_begun_anew(
    lab: World, caplog: pytest.LogCaptureFixture, keys: Keys, track_deletes: bool
) -> None:
    lab.keys = OLD
    full = lab.backup(track_deletes=track_deletes)
    settle()
    lab.keys = keys
    again = lab.backup(INCREMENTAL, track_deletes=track_deletes)
    assert (again.kind, again.encryption) == (FULL, keys.encryption)
    warning = next(text for text in caplog.messages if full.id in text)
    assert "This backup is full: nobody here could restore one that builds on it" in warning
    assert whole(lab, again)


def test_a_chain_that_began_plain_goes_on_encrypted_and_plain_again(server: StandIn, lab: World) -> None:
    lab.keys = NO_KEYS
    full = lab.backup(track_deletes=True)
    gone = change(server, lab)
    lab.keys = NEW
    encrypted = lab.backup(INCREMENTAL, track_deletes=True)
    assert lab.digests(encrypted, "deleted") == gone
    settle()
    lab.keys = replace(NEW, current=None)
    plain = lab.backup(INCREMENTAL, track_deletes=True)
    assert [manifest.encryption for manifest in (full, encrypted, plain)] == [None, NEW.encryption, None]
    assert (encrypted.parent, plain.parent) == (full.id, encrypted.id)
    assert plain.deleted == 0
    assert lab.digests(plain, "digests") == lab.digests(encrypted, "digests")
    for manifest in (full, encrypted, plain):
        assert whole(lab, manifest)


@pytest.mark.parametrize(("keys", "kind"), [(OLD, WrongKey), (NO_KEYS, KeyMissing)])
def test_a_slice_without_the_key_of_its_plan_reads_and_writes_nothing(
    lab: World, keys: Keys, kind: type[Exception]
) -> None:
    plan = lab.plan()
    with pytest.raises(kind, match=rf"backup {plan.id} of .* is encrypted with {NEW.current}"):
        backup.backup_slice(lab.access, lab.store, plan, *plan.slices[0], keys=keys)
    assert [name for name in lab.objects() if name != "_lease.json"] == []
    backup.release_lease(lab.store, plan)


def test_the_command_line_encrypts_verifies_and_tells_a_wrong_key_from_damage(
    server: StandIn, lab_s3: LabS3, tmp_path: Path
) -> None:
    space = SPACES[next(_next)]
    server.load(space, "s", rows(range(500)))
    document = yaml.safe_load((DIRECTORY / "lab.yaml").read_text())
    document["storage"] |= {"prefix": lab_s3.new_prefix(), "encryption": {"mode": "aes128"}}
    eu = document["aerospike"]["clusters"][0]
    eu["namespaces"] = [{"name": space, "track_deletes": True}]
    del document["sync"], document["consistency"]  # they name the namespaces that were here
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    port = int(lab_s3.endpoint.rpartition(":")[2])
    made = {"aerospike_eu": connections.aerospike(server.ports), "dbops_s3": connections.s3(port)}
    said: list[str] = []

    def dbops(*arguments: str, pem: bytes | None = PEM) -> Result:
        key = {"dbops_backup_key": {"conn_type": "generic", "password": pem.decode()}} if pem else {}
        environment = {**connections.variables(made | key), "DBOPS_PLATFORM": str(tmp_path / "mine.yaml")}
        done = CliRunner().invoke(app, arguments, env=environment)
        said.append(done.output)
        return done

    taken = dbops("backup", "run", "eu", "--json")
    assert taken.exit_code == 0, taken.stderr
    (point,) = json.loads(taken.stdout)
    assert point["records"] == 500
    shown = json.loads(dbops("backup", "show", "eu", space, point["id"], "--json").stdout)
    assert shown["encryption"] == Keys.of("aes128", PEM).encryption.model_dump()  # type: ignore[union-attr]

    wrong = dbops("backup", "verify", "eu", "--json", pem=OTHER_PEM)
    assert wrong.exit_code == 1
    (row,) = json.loads(wrong.stdout)
    assert (row["ok"], row["problems"]) == (True, [])
    assert row["warnings"][0].startswith(f"wrong key: restore point {point['id']}")
    without = dbops("backup", "verify", "eu", "--json", pem=None)
    assert without.exit_code == 0
    assert "Only sizes and SHA-256 were compared" in json.loads(without.stdout)[0]["warnings"][0]
    assert "without the backup key" in without.stderr
    right = dbops("backup", "verify", "eu", "--json")
    assert right.exit_code == 0, right.stderr
    assert json.loads(right.stdout)[0] | {"seconds": 0} == {
        "point": f"eu/{space} {point['id']}",
        "ok": True,
        "objects": 16,
        "records": 500,
        "bytes": point["stored_bytes"],
        "seconds": 0,
        "problems": [],
        "warnings": [],
    }
    refused = dbops("backup", "run", "eu", pem=PEM[:-30])
    assert refused.exit_code == 2
    assert "connection dbops_backup_key (in its password): the PEM file is not whole" in refused.stderr
    assert not leaks("".join(said))


@pytest.mark.skipif(not ASRESTORE, reason="ASRESTORE names no asrestore")
@pytest.mark.parametrize("mode", ["aes128", "aes256"])
def test_asrestore_restores_what_we_encrypted(
    server: StandIn, lab: World, tmp_path: Path, mode: EncryptionMode
) -> None:
    lab.keys = Keys.of(mode, PEM)
    manifest = lab.backup()
    for entry in manifest.objects:
        (tmp_path / entry.name).write_bytes(lab.store.get(manifest.prefix + entry.name))
    target = SPACES[next(_next)]
    done = subprocess.run(
        [
            str(ASRESTORE), "--host", LOOPBACK, "--port", str(server.ports[0]), "--directory", str(tmp_path),
            "--namespace", f"{lab.namespace},{target}", "--compress", "zstd",
            "--encrypt", mode, "--encryption-key-file", str(GOLDEN / "test_key.pem"),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"inserted {RECORDS}" in done.stderr
    with closing(connect(server.ports[0])) as client:
        assert len(client.query(target).results()) == RECORDS


@pytest.mark.skipif(not ASBACKUP, reason="ASBACKUP names no asbackup")
@pytest.mark.parametrize("mode", ["aes128", "aes256"])
def test_what_asbackup_encrypted_is_read(server: StandIn, lab: World, tmp_path: Path, mode: EncryptionMode) -> None:
    file = tmp_path / "theirs.asb"
    subprocess.run(
        [
            str(ASBACKUP), "--host", LOOPBACK, "--port", str(server.ports[0]), "--output-file", str(file),
            "--namespace", lab.namespace, "--compress", "zstd",
            "--encrypt", mode, "--encryption-key-file", str(GOLDEN / "test_key.pem"),
        ],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    key = key_from_pem(PEM, mode)
    text = b"".join(check_start(decrypt(iter([file.read_bytes()]), key), file.name, key))
    _, entries = asb.read(asb.open_asb(io.BytesIO(text)), lab.namespace)
    found = [entry.digest for entry in entries if isinstance(entry, asb.Record)]
    assert sorted(found) == sorted(digest_of(number) for number in range(RECORDS))
    assert len({partition_of(digest) for digest in found}) > 1000
