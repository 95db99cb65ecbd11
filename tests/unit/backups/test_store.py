"""What both kinds of store promise, over real sockets and a real file system."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backup_samples import s3_connection
from dbops.backups.store import (
    PART,
    AlreadyExists,
    LocalStore,
    NotFound,
    PreconditionFailed,
    S3Store,
    Store,
    StoreRefused,
    open_store,
    part_size,
)
from dbops.connections import ConnectionInfo
from dbops.errors import FinalError
from dbops_lab.fault_proxy import Fault, FaultProxy

MIB = 1 << 20
ODD_KEYS = ["a b/c d.txt", "ü/ñ/日本.bin", "a+b&c=d?e#f%20g<h>/x'y\"z", "plain"]


def keys(store: Store, prefix: str = "") -> list[str]:
    return sorted(item.key for item in store.list(prefix))


class TestObjects:
    def test_what_was_put_is_got_with_its_sum(self, store: Store) -> None:
        stored = store.put("a/b", b"hello")
        assert store.get("a/b") == b"hello"
        assert (stored.key, stored.size) == ("a/b", 5)
        assert stored.sha256 == hashlib.sha256(b"hello").hexdigest()
        assert stored.modified_at is not None
        assert abs(stored.modified_at - datetime.now(UTC)) < timedelta(seconds=10)

    def test_put_replaces(self, store: Store) -> None:
        first, second = store.put("a", b"1"), store.put("a", b"2")
        assert store.get("a") == b"2"
        assert first.etag != second.etag

    def test_head_knows_the_written_object(self, store: Store) -> None:
        stored = store.put("a/b", b"hello")
        found = store.head("a/b")
        assert found is not None
        assert (found.key, found.size, found.etag) == ("a/b", 5, stored.etag)
        assert found.modified_at is not None
        assert found.modified_at.utcoffset() == timedelta(0)

    @pytest.mark.parametrize("key", ["nothing", "nothing/below", "a/b/c"])
    def test_what_is_not_there(self, store: Store, key: str) -> None:
        store.put("a/b", b"")
        assert store.head(key) is None
        with pytest.raises(NotFound, match="there is no such object"):
            store.get(key)

    def test_empty_object(self, store: Store) -> None:
        with store.open_writer("empty") as writer:
            pass
        assert writer.close().size == 0
        assert writer.close().sha256 == hashlib.sha256(b"").hexdigest()
        assert store.get("empty") == b""

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_odd_keys_survive_every_operation(self, store: Store, key: str) -> None:
        store.put(key, b"1")
        assert store.get(key) == b"1"
        assert store.head(key) is not None
        assert keys(store) == [key]
        assert keys(store, key[:3]) == [key]
        store.delete([key])
        assert keys(store) == []

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a"])
    def test_keys_that_lead_astray_are_refused(self, store: Store, key: str) -> None:
        with pytest.raises(FinalError, match="is no object key"):
            store.put(key, b"")
        with pytest.raises(FinalError, match="is no object key"):
            store.open_writer(key)

    def test_ranges(self, store: Store) -> None:
        store.put("a", b"0123456789")
        assert b"".join(store.read("a", 3)) == b"3456789"
        assert b"".join(store.read("a", 3, 4)) == b"3456"
        assert b"".join(store.read("a", 8, 100)) == b"89"
        assert b"".join(store.read("a", 0, 0)) == b""
        assert b"".join(store.read("a", 10)) == b""
        assert b"".join(store.read("a", 99, 5)) == b""

    def test_reading_comes_in_bounded_chunks(self, store: Store) -> None:
        data = os.urandom(3 * MIB + 17)
        store.put("a", data)
        chunks = list(store.read("a"))
        assert max(map(len, chunks)) <= MIB
        assert b"".join(chunks) == data

    def test_check_passes_on_a_usable_store(self, store: Store) -> None:
        store.check()


class TestConditions:
    def test_if_absent_writes_once(self, store: Store) -> None:
        store.put("a", b"1", if_absent=True)
        with pytest.raises(AlreadyExists, match="already there"):
            store.put("a", b"2", if_absent=True)
        assert store.get("a") == b"1"

    def test_if_match_writes_over_the_version_that_was_read_only(self, store: Store) -> None:
        first = store.put("a", b"1")
        second = store.put("a", b"2", if_match=first.etag)
        with pytest.raises(PreconditionFailed, match="changed since it was read"):
            store.put("a", b"3", if_match=first.etag)
        assert store.get("a") == b"2"
        store.put("a", b"4", if_match=second.etag)
        assert store.get("a") == b"4"

    def test_if_match_on_nothing(self, store: Store) -> None:
        with pytest.raises(PreconditionFailed):
            store.put("a", b"1", if_match="etag")
        assert store.head("a") is None

    @pytest.mark.parametrize("condition", ["if_absent", "if_match"])
    def test_of_many_at_once_one_writes(self, store: Store, condition: str) -> None:
        for number in range(10):
            key, before = f"k{number}", None
            if condition == "if_match":
                before = store.put(key, b"before").etag
            wrote: list[int] = []
            barrier = threading.Barrier(4)

            def write(
                mine: int,
                key: str = key,
                before: str | None = before,
                wrote: list[int] = wrote,
                barrier: threading.Barrier = barrier,
            ) -> None:
                barrier.wait()
                try:
                    store.put(key, b"%d" % mine, if_absent=before is None, if_match=before)
                except (AlreadyExists, PreconditionFailed):
                    return
                wrote.append(mine)

            threads = [threading.Thread(target=write, args=(mine,)) for mine in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(wrote) == 1
            assert store.get(key) == b"%d" % wrote[0]


class TestListing:
    def test_prefix_is_any_beginning_of_a_key(self, store: Store) -> None:
        for key in ["a/1", "a/12", "a/2/x", "ab/1", "b"]:
            store.put(key, b"")
        assert keys(store) == ["a/1", "a/12", "a/2/x", "ab/1", "b"]
        assert keys(store, "a") == ["a/1", "a/12", "a/2/x", "ab/1"]
        assert keys(store, "a/") == ["a/1", "a/12", "a/2/x"]
        assert keys(store, "a/1") == ["a/1", "a/12"]
        assert keys(store, "c/") == []

    def test_prefixes_are_the_folders_directly_below(self, store: Store) -> None:
        for key in ["a/x/1", "a/x/2/3", "a/y/1", "a/z", "b/1"]:
            store.put(key, b"")
        assert sorted(store.list_prefixes("a/")) == ["a/x/", "a/y/"]
        assert sorted(store.list_prefixes("")) == ["a/", "b/"]
        assert list(store.list_prefixes("none/")) == []

    def test_more_keys_than_a_page_holds(self, store: Store) -> None:
        expected = [f"k/{number:04d}" for number in range(1005)]
        for key in expected:
            store.put(key, b"x")
        assert keys(store, "k/") == expected
        store.delete([*expected[:1003], "k/never there"])
        assert keys(store, "k/") == expected[1003:]

    def test_listing_tells_size_and_time(self, store: Store) -> None:
        stored = store.put("a", b"12345")
        (found,) = store.list("")
        assert (found.size, found.etag) == (5, stored.etag)
        assert found.modified_at is not None
        assert found.modified_at.utcoffset() == timedelta(0)


class TestWriter:
    def test_not_visible_before_it_is_closed(self, store: Store) -> None:
        writer = store.open_writer("d/a")
        writer.write(os.urandom(20 * MIB))
        assert store.head("d/a") is None
        assert keys(store) == []
        assert list(store.list_prefixes("")) == []
        writer.close()
        assert keys(store) == ["d/a"]

    @pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 5], ids=lambda size: f"{size}")
    def test_content_and_sum_at_the_edges_of_parts(self, store: Store, size: int) -> None:
        data = os.urandom(size)
        with store.open_writer("a") as writer:
            for start in range(0, size, 3_000_001):
                writer.write(data[start : start + 3_000_001])
        stored = writer.close()
        assert (stored.size, stored.sha256) == (size, hashlib.sha256(data).hexdigest())
        assert store.get("a") == data
        found = store.head("a")
        assert found is not None
        assert (found.size, found.etag) == (size, stored.etag)

    def test_takes_any_buffer_and_lets_the_caller_reuse_it(self, store: Store) -> None:
        buffer = bytearray(b"abcd" * 1000)
        with store.open_writer("a") as writer:
            for letter in b"wxyz":
                buffer[:] = bytes([letter]) * len(buffer)
                writer.write(buffer)
            writer.write(memoryview(buffer)[:2])
            writer.write(b"end")
        assert store.get("a") == b"w" * 4000 + b"x" * 4000 + b"y" * 4000 + b"z" * 4000 + b"zz" + b"end"

    @pytest.mark.parametrize("size", [10, 20 * MIB])
    def test_an_exception_leaves_nothing(self, store: Store, size: int) -> None:
        writer = store.open_writer("a")

        def fail() -> None:
            with writer:
                writer.write(bytes(size))
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            fail()
        assert store.head("a") is None
        assert store.abort_uploads("") == 0
        with pytest.raises(ValueError, match="after"):
            writer.write(b"x")
        with pytest.raises(ValueError, match="after"):
            writer.close()

    def test_an_abort_keeps_what_was_there(self, store: Store) -> None:
        store.put("a", b"old")
        writer = store.open_writer("a")
        writer.write(bytes(20 * MIB))
        writer.abort()
        writer.abort()
        assert store.get("a") == b"old"

    def test_closing_twice_is_closing_once(self, store: Store) -> None:
        writer = store.open_writer("a")
        writer.write(b"1")
        assert writer.close() is writer.close()
        writer.abort()
        assert store.get("a") == b"1"

    def test_writers_of_one_key_do_not_mix(self, store: Store) -> None:
        one, two = store.open_writer("a"), store.open_writer("a")
        for _ in range(18):
            one.write(b"1" * MIB)
            two.write(b"2" * MIB)
        one.close()
        two.close()
        assert store.get("a") == b"2" * 18 * MIB

    def test_unfinished_uploads_are_swept_by_prefix(self, store: Store) -> None:
        writers = [store.open_writer(key) for key in ["a/1", "a/2", "b/1"]]
        for writer in writers:
            writer.write(bytes(9 * MIB))
        assert store.abort_uploads("a/") == 2
        assert store.abort_uploads("") == 1
        assert store.abort_uploads("") == 0
        for writer in writers:
            writer.abort()


KMS_ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


class TestS3:
    def test_parts_grow_so_that_five_tebibytes_fit(self) -> None:
        sizes = [part_size(number) for number in range(1, 10001)]
        assert sizes[0] == sizes[4999] == 8 * MIB
        assert sum(sizes[:5000]) > 40 * 10**9
        assert sum(sizes) >= 5 << 40
        assert max(sizes) <= 5 << 30
        assert sizes == sorted(sizes)

    def test_a_small_object_is_one_request_and_keeps_its_sum(self, s3: S3Store) -> None:
        with s3.open_writer("small") as writer:
            writer.write(b"x" * MIB)
        found = s3.head("small")
        assert found is not None
        assert found.sha256 == writer.close().sha256
        assert "-" not in (found.etag or "-")  # the etag of a multipart object ends with -<parts>

    @pytest.mark.parametrize("checksum", ["CRC32", "sha256", "none"])
    def test_checksums_are_sent_as_configured(self, connect_s3: Callable[..., S3Store], checksum: str) -> None:
        store = connect_s3(checksum=checksum)
        sent: list[dict[str, str]] = []
        for operation in ("PutObject", "UploadPart"):
            store.client.meta.events.register(
                f"before-send.s3.{operation}",
                lambda request, **_: sent.append({k.lower(): str(v) for k, v in request.headers.items()}),
            )
        store.put("a", b"hello")
        with store.open_writer("b") as writer:
            writer.write(bytes(17 * MIB))
        assert store.get("b") == bytes(17 * MIB)
        sums = [{name for name in headers if name.startswith("x-amz-checksum-")} for headers in sent]
        expected = set() if checksum == "none" else {f"x-amz-checksum-{checksum.lower()}"}
        assert len(sums) == 4
        assert all(found == expected for found in sums)
        assert not any("trailer" in header for headers in sent for header in headers)

    def test_an_unknown_checksum_is_refused(self, connect_s3: Callable[..., S3Store]) -> None:
        with pytest.raises(FinalError, match="checksum MD5 is not known; write CRC32, SHA256 or none"):
            connect_s3(checksum="md5")

    @pytest.mark.parametrize(
        ("kms_key", "expected"),
        [
            (None, (None, None)),
            ("alias/aws/s3", ("aws:kms", None)),
            ("alias/backups", ("aws:kms", "alias/backups")),
            (KMS_ARN, ("aws:kms", KMS_ARN)),
        ],
    )
    def test_every_object_is_encrypted_with_the_kms_key(
        self, s3: S3Store, moto_endpoint: str, kms_key: str | None, expected: tuple[str | None, str | None]
    ) -> None:
        store = S3Store(s3.bucket, s3.prefix, s3_connection(moto_endpoint), kms_key=kms_key)
        store.put("put", b"1")
        store.put("new", b"1", if_absent=True)
        for name, size in (("one", 100), ("parts", 9 << 20)):
            with store.open_writer(name) as writer:
                writer.write(bytes(size))
        for name in ("put", "new", "one", "parts"):
            said = s3.client.head_object(**s3.where(name))
            assert (said.get("ServerSideEncryption"), said.get("SSEKMSKeyId")) == expected, name
        assert len(store.get("parts")) == 9 << 20

    def test_a_copy_is_of_the_version_that_was_read(self, s3: S3Store) -> None:
        made = s3.put("a/b", b"rows")
        s3.copy("a/b", "c=1/b", if_match=made.etag or "")
        assert s3.get("c=1/b") == b"rows"
        s3.put("a/b", b"others")
        with pytest.raises(PreconditionFailed, match="expected etag"):
            s3.copy("a/b", "c=1/b", if_match=made.etag or "")
        with pytest.raises(PreconditionFailed):
            s3.copy("a/absent", "c=1/b", if_match="x")

    def test_what_is_frozen_is_known_and_can_be_thawed(self, s3: S3Store) -> None:
        s3.put("warm", b"x")
        s3.client.put_object(**s3.where("cold"), Body=b"x", StorageClass="DEEP_ARCHIVE")
        assert (s3.is_frozen("warm"), s3.is_frozen("cold")) == (False, True)
        for _ in range(2):
            s3.thaw("cold", 2)
        assert not s3.is_frozen("cold")
        with pytest.raises(NotFound):
            s3.is_frozen("absent")

    def test_a_kms_key_that_refuses_is_named_as_the_cause(self, s3: S3Store, moto_endpoint: str) -> None:
        with FaultProxy(int(moto_endpoint.rpartition(":")[2])) as proxy:
            store = S3Store(s3.bucket, s3.prefix, s3_connection(proxy.url), kms_key="alias/gone")
            proxy.order(Fault("PUT", status=400, code="KMS.NotFoundException"))
            with pytest.raises(StoreRefused, match=r"the KMS key refused it \(KMS.NotFound.*check `storage.kms_key`"):
                store.put("a", b"1")

    def test_a_missing_bucket_is_named(self, moto_endpoint: str) -> None:
        store = S3Store("no-such-bucket", "x", s3_connection(moto_endpoint))
        for call in (
            store.check,
            lambda: store.head("a"),
            lambda: store.get("a"),
            lambda: store.put("a", b""),
            lambda: list(store.list("")),
            lambda: store.delete(["a"]),
            lambda: store.abort_uploads(""),
        ):
            with pytest.raises(StoreRefused, match="bucket no-such-bucket does not exist; create it"):
                call()
        with (
            pytest.raises(StoreRefused, match="bucket no-such-bucket does not exist"),
            store.open_writer("a") as writer,
        ):
            writer.write(bytes(9 * MIB))

    def test_secrets_are_not_in_errors(self, moto_endpoint: str) -> None:
        info = ConnectionInfo(
            "dbops_s3",
            "aws",
            login="AKIAPLANTED",
            password="planted/secret",
            extra={"endpoint_url": moto_endpoint, "region_name": "us-east-1"},
        )
        store = S3Store("no-such-bucket", "", info)
        with pytest.raises(StoreRefused) as caught:
            store.get("a")
        assert "planted" not in f"{caught.value}{store!r}{caught.value.__cause__}".lower()

    def test_extras_that_would_be_ignored_are_refused(self, moto_endpoint: str) -> None:
        with pytest.raises(FinalError, match=r"extra role_arn is not understood here; use aws_session_token"):
            S3Store("b", "", s3_connection(moto_endpoint, role_arn="arn:aws:iam::1:role/x")).get("a")

    def test_one_client_per_connection(self, s3: S3Store, moto_endpoint: str) -> None:
        again = S3Store("other", "", s3_connection(moto_endpoint))
        assert s3.client is again.client
        assert s3.client is not S3Store("other", "", s3_connection(moto_endpoint, verify=False)).client

    def test_service_config_endpoint_wins(self, connect_s3: Callable[..., S3Store], moto_endpoint: str) -> None:
        extra = {
            "endpoint_url": "http://127.0.0.1:1",
            "service_config": {"s3": {"endpoint_url": moto_endpoint}},
        }
        store = connect_s3(**extra)
        store.put("a", b"1")
        assert store.get("a") == b"1"

    def test_without_a_connection_the_environment_decides(
        self, s3: S3Store, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", moto_endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3.put("a", b"1")
        assert open_store(f"s3://{s3.bucket}/{s3.prefix}").get("a") == b"1"

    def test_an_object_that_changes_while_it_is_read_is_not_mixed(self, s3: S3Store) -> None:
        s3.put("a", b"1" * 3 * MIB)
        chunks = s3.read("a")
        first = next(chunks)
        s3.put("a", b"2" * 3 * MIB)
        rest = b"".join(chunks)  # the answer that had begun goes on
        assert first + rest == b"1" * 3 * MIB

    def test_memory_of_a_stream_is_three_parts_whatever_its_size(self, s3: S3Store, moto_endpoint: str) -> None:
        grown = [stream_in_a_process(s3, moto_endpoint, megabytes) for megabytes in (60, 240)]
        assert max(grown) < 32 * MIB, [f"{size / MIB:.1f} MiB" for size in grown]


STREAM = """
import sys
from backup_samples import most_memory, s3_connection
from dbops.backups.store import S3Store
store = S3Store(sys.argv[1], "", s3_connection(sys.argv[2]))
store.put("warm", b"")
block = bytes(range(256)) * 4096
before = most_memory()
with store.open_writer("big") as writer:
    for _ in range(int(sys.argv[3])):
        writer.write(block)
print(most_memory() - before)
"""


def stream_in_a_process(store: S3Store, endpoint: str, megabytes: int) -> int:
    """Bytes by which the memory of a process grew that streamed so much into S3, which runs in this one."""
    done = subprocess.run(
        [sys.executable, "-c", STREAM, store.bucket, endpoint, str(megabytes)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


class TestLocal:
    def test_leaves_no_temporary_file(self, local: LocalStore) -> None:
        local.put("a/b", b"1")
        with local.open_writer("a/c") as writer:
            writer.write(b"2")
        found = sorted(path.name for path in local.directory.rglob("*") if path.is_file())
        assert found == ["b", "c"]

    def test_deleting_removes_empty_folders_only(self, local: LocalStore) -> None:
        local.put("a/b/c", b"")
        local.put("a/d", b"")
        local.delete(["a/b/c"])
        assert not (local.directory / "a/b").exists()
        assert local.get("a/d") == b""

    def test_names_with_a_leading_dot_are_its_own(self, local: LocalStore) -> None:
        with pytest.raises(FinalError, match="must not begin with a dot"):
            local.put("a/.b", b"")

    def test_a_path_that_is_no_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        for call in (
            lambda: LocalStore(tmp_path / "file").put("a", b""),
            LocalStore(tmp_path / "file").check,
        ):
            with pytest.raises(StoreRefused, match=r"file.*check the directory and its rights"):
                call()

    def test_same_size_and_moment_still_give_two_etags(self, local: LocalStore) -> None:
        etags = {local.put("a", b"%04d" % number).etag for number in range(200)}
        assert len(etags) == 200


class TestOpenStore:
    def test_url_and_directory(self, tmp_path: Path) -> None:
        store = open_store("s3://bucket/some/prefix/")
        assert isinstance(store, S3Store)
        assert (store.bucket, store.prefix, store.url) == (
            "bucket",
            "some/prefix/",
            "s3://bucket/some/prefix",
        )
        assert open_store("s3://bucket").url == "s3://bucket"
        for given in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
            local = open_store(given)
            assert isinstance(local, LocalStore)
            assert local.directory == tmp_path
