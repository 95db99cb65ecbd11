"""What a store survives between this process and the bucket or disk, and what it leaves behind when it does not."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dbops.backups.lease import Lease, LeaseHeld, current
from dbops.backups.store import (
    AlreadyExists,
    LocalStore,
    NotFound,
    PreconditionFailed,
    S3Store,
    Store,
    StoreRefused,
    StoreUnavailable,
)
from dbops.connections import ConnectionInfo
from dbops.errors import FinalError, RetryableError
from dbops_lab.fault_proxy import ALWAYS, Fault, FaultProxy
from dbops_lab.testing import LabS3

MIB = 1 << 20
BIG = 20 * MIB  # three parts
DATA = os.urandom(MIB) * 20
PART_2 = "partNumber=2"
ATTEMPTS = 3


def impatient(connection: ConnectionInfo, endpoint: str) -> ConnectionInfo:
    """The same connection through another endpoint, with little patience."""
    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    patience = {"read_timeout": 1.5, "connect_timeout": 1, "retries": retries}
    return replace(connection, extra={**connection.extra, "endpoint_url": endpoint, "config_kwargs": patience})


@pytest.fixture
def proxy(lab_s3: LabS3) -> Iterator[FaultProxy]:
    with FaultProxy(int(lab_s3.endpoint.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
def store(lab_s3: LabS3, proxy: FaultProxy) -> S3Store:
    """Through the proxy."""
    return S3Store(lab_s3.bucket, lab_s3.new_prefix(), impatient(lab_s3.connection, proxy.url))


@pytest.fixture
def direct(lab_s3: LabS3, store: S3Store) -> S3Store:
    """The same prefix past the proxy: what is really there."""
    return S3Store(lab_s3.bucket, store.prefix, lab_s3.connection)


def uploads(store: S3Store) -> list[Any]:
    found = store.client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix)
    return list(found.get("Uploads", ()))


def write(store: Store, key: str = "big", data: bytes = DATA) -> None:
    with store.open_writer(key) as writer:
        for start in range(0, len(data), MIB):
            writer.write(data[start : start + MIB])


def sum_of(store: Store, key: str = "big") -> str:
    found = hashlib.sha256()
    for chunk in store.read(key):
        found.update(chunk)
    return found.hexdigest()


def assert_nothing_left(store: S3Store) -> None:
    assert uploads(store) == []
    assert list(store.list("")) == []


ONE_STEP = [
    pytest.param("POST", "uploads$", id="beginning"),
    pytest.param("PUT", PART_2, id="a part"),
    pytest.param("POST", "uploadId=", id="the end"),
]


class TestUploadSurvives:
    @pytest.mark.parametrize("status", [500, 503])
    @pytest.mark.parametrize(("method", "path"), ONE_STEP)
    def test_an_overloaded_store(
        self, store: S3Store, direct: S3Store, proxy: FaultProxy, method: str, path: str, status: int
    ) -> None:
        proxy.order(Fault(method, path, times=ATTEMPTS - 2, status=status))
        write(store)
        assert sum_of(direct) == hashlib.sha256(DATA).hexdigest()
        assert proxy.count(method, path) == ATTEMPTS - 1
        assert uploads(direct) == []

    def test_every_request_failing_once(self, store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
        proxy.order(*(Fault(path=f"partNumber={number}", status=503) for number in (1, 2, 3)))
        proxy.order(Fault("POST", "uploads$", status=503), Fault("POST", "uploadId=", status=503))
        write(store)
        assert sum_of(direct) == hashlib.sha256(DATA).hexdigest()

    @pytest.mark.parametrize("after", [0, 1000, 5 * MIB])
    def test_a_connection_reset_in_the_middle_of_a_part(
        self, store: S3Store, direct: S3Store, proxy: FaultProxy, after: int
    ) -> None:
        proxy.order(Fault("PUT", PART_2, times=ATTEMPTS - 1, reset_after=after))
        write(store)
        assert sum_of(direct) == hashlib.sha256(DATA).hexdigest()
        assert proxy.count("PUT", PART_2) == ATTEMPTS

    def test_an_answer_that_does_not_come_in_time(self, store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
        proxy.order(Fault("PUT", PART_2, stall=2))
        write(store)
        assert sum_of(direct) == hashlib.sha256(DATA).hexdigest()

    @pytest.mark.parametrize(("method", "path"), ONE_STEP)
    def test_an_answer_that_is_lost(
        self, store: S3Store, direct: S3Store, proxy: FaultProxy, method: str, path: str
    ) -> None:
        """The store did it and we do not know: doing it again must be right."""
        proxy.order(Fault(method, path, cut_reply_after=-1))
        write(store)
        assert sum_of(direct) == hashlib.sha256(DATA).hexdigest()
        assert [item.key for item in direct.list("")] == ["big"]

    def test_a_small_object_in_bad_weather(self, store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
        proxy.order(Fault("PUT", reset_after=1), Fault("PUT", cut_reply_after=-1))
        store.put("small", b"hello")
        assert direct.get("small") == b"hello"


class TestUploadFails:
    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param({"status": 503}, id="503"),
            pytest.param({"status": 500}, id="500"),
            pytest.param({"reset_after": MIB}, id="reset"),
            pytest.param({"stall": 2.0}, id="timeout"),
        ],
    )
    @pytest.mark.parametrize(("method", "path"), ONE_STEP)
    def test_loudly_and_leaves_no_part_behind(
        self,
        store: S3Store,
        direct: S3Store,
        proxy: FaultProxy,
        method: str,
        path: str,
        fault: dict[str, Any],
    ) -> None:
        if method == "POST" and "reset_after" in fault:
            fault = {"reset_after": 0} if "uploadId" in path else {"cut_reply_after": -1}
        proxy.order(Fault(method, path, times=ALWAYS, **fault))
        with pytest.raises(StoreUnavailable) as caught:
            write(store)
        assert isinstance(caught.value, RetryableError)
        for part in (f"{store.url}/big", "try again"):
            assert part in str(caught.value)
        assert proxy.count(method, path) == ATTEMPTS
        if "cut_reply_after" in fault:  # the store has begun uploads that it could not tell us of
            assert direct.abort_uploads("") == ATTEMPTS
        assert_nothing_left(direct)

    def test_what_was_there_before_stays(self, store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
        direct.put("big", b"old")
        proxy.order(Fault("PUT", PART_2, times=ALWAYS, status=503))
        with pytest.raises(StoreUnavailable):
            write(store)
        assert direct.get("big") == b"old"
        assert uploads(direct) == []

    def test_the_producer_learns_of_it_while_it_writes(self, store: S3Store, proxy: FaultProxy) -> None:
        proxy.order(Fault("PUT", "partNumber=1", times=ALWAYS, status=503))
        writer = store.open_writer("endless")
        deadline = time.monotonic() + 60
        with pytest.raises(StoreUnavailable, match="upload part 1 of"):  # noqa: PT012
            while time.monotonic() < deadline:
                writer.write(DATA[:MIB])
                time.sleep(0.02)
        with pytest.raises(ValueError, match="after"):
            writer.write(b"more")

    def test_when_even_the_abort_fails_the_next_sweep_does_it(
        self, store: S3Store, direct: S3Store, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        proxy.order(Fault("PUT|DELETE", "uploadId=", times=ALWAYS, status=503))
        with pytest.raises(StoreUnavailable, match="upload part"):
            write(store)
        assert "could not be dropped" in caplog.text
        assert list(direct.list("")) == []
        proxy.clear()
        assert store.abort_uploads("") == 1
        assert_nothing_left(direct)

    def test_a_refusal_is_final_and_not_tried_again(self, store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
        proxy.order(Fault("PUT", PART_2, times=ALWAYS, status=403))
        with pytest.raises(StoreRefused, match=r"refused it .*check the connection's credentials") as caught:
            write(store)
        assert isinstance(caught.value, FinalError)
        assert proxy.count("PUT", PART_2) == 1
        assert_nothing_left(direct)

    def test_nobody_listens(self, lab_s3: LabS3) -> None:
        store = S3Store("bucket", "", impatient(lab_s3.connection, "http://127.0.0.1:1"))
        for call in (store.check, lambda: store.get("a"), lambda: store.put("a", b""), lambda: write(store)):
            with pytest.raises(StoreUnavailable, match=r"no answer .*check network and endpoint, then try again"):
                call()


class TestConditionsSurviveLostAnswers:
    """The first attempt was carried out, its answer lost; the retry meets an object that it made itself."""

    def test_if_absent(self, store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
        proxy.order(Fault("PUT", cut_reply_after=-1))
        stored = store.put("a", b"mine", if_absent=True)
        assert proxy.count("PUT") == 2
        found = direct.head("a")
        assert found is not None
        assert found.etag == stored.etag

    def test_if_match(self, store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
        before = direct.put("a", b"before")
        proxy.order(Fault("PUT", cut_reply_after=-1))
        stored = store.put("a", b"mine", if_match=before.etag)
        assert direct.get("a") == b"mine"
        found = direct.head("a")
        assert found is not None
        assert found.etag == stored.etag

    def test_another_object_is_not_taken_for_it(self, store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
        before = direct.put("a", b"theirs")
        proxy.order(Fault("PUT", status=503), Fault("PUT", reset_after=1))
        with pytest.raises(AlreadyExists):
            store.put("a", b"mine", if_absent=True)
        proxy.order(Fault("PUT", status=503))
        with pytest.raises(PreconditionFailed):
            store.put("a", b"mine", if_match="0" * 32)
        assert direct.get("a") == b"theirs"
        assert store.put("a", b"next", if_match=before.etag).size == 4

    def test_a_lease(self, store: S3Store, proxy: FaultProxy) -> None:
        ttl = timedelta(minutes=15)
        proxy.order(Fault("PUT", cut_reply_after=-1))
        lease = Lease.acquire(store, "lease", "a", ttl)
        with pytest.raises(LeaseHeld):
            Lease.acquire(store, "lease", "b", ttl)
        proxy.order(Fault("PUT", cut_reply_after=-1))
        lease.renew()
        proxy.order(Fault("PUT", cut_reply_after=-1))
        lease.release()
        assert current(store, "lease") is None


class TestDownload:
    @pytest.fixture(autouse=True)
    def _object(self, direct: S3Store) -> None:
        write(direct)

    @pytest.mark.parametrize("after", [0, 1, 3 * MIB + 17])
    def test_a_connection_reset_resumes_where_it_broke(self, store: S3Store, proxy: FaultProxy, after: int) -> None:
        proxy.order(Fault("GET", times=3, cut_reply_after=after))
        assert sum_of(store) == hashlib.sha256(DATA).hexdigest()
        assert proxy.count("GET", "big") == 4

    def test_a_range_resumes_within_itself(self, store: S3Store, proxy: FaultProxy) -> None:
        proxy.order(Fault("GET", times=2, cut_reply_after=MIB))
        assert b"".join(store.read("big", 5, 4 * MIB)) == DATA[5 : 5 + 4 * MIB]

    def test_a_store_that_never_gets_on_is_given_up(self, store: S3Store, proxy: FaultProxy) -> None:
        proxy.order(Fault("GET", times=ALWAYS, cut_reply_after=0))
        with pytest.raises(StoreUnavailable, match=f"read {store.url}/big: no answer"):
            sum_of(store)

    def test_an_object_that_was_replaced_meanwhile_is_not_mixed(
        self, store: S3Store, direct: S3Store, proxy: FaultProxy
    ) -> None:
        proxy.order(Fault("GET", cut_reply_after=2 * MIB))
        chunks = store.read("big")
        next(chunks)
        direct.put("big", b"another")
        with pytest.raises(PreconditionFailed, match="was overwritten while it was read"):
            list(chunks)

    def test_an_overloaded_store(self, store: S3Store, proxy: FaultProxy) -> None:
        proxy.order(Fault(times=ATTEMPTS - 1, status=503))
        assert sum_of(store) == hashlib.sha256(DATA).hexdigest()
        proxy.order(Fault(times=ALWAYS, status=503))
        for call in (
            lambda: sum_of(store),
            lambda: store.head("big"),
            lambda: list(store.list("")),
            lambda: store.delete(["big"]),
        ):
            with pytest.raises(StoreUnavailable, match="try again"):
                call()


WRITER = """
import sys
from pathlib import Path
from dbops.backups.store import LocalStore, S3Store
from dbops.connections import ConnectionInfo
place, prefix, endpoint = sys.argv[1:]
info = ConnectionInfo("s3", "aws", login="key", password="secret",
                      extra={"endpoint_url": endpoint, "region_name": "eu-west-1"})
store = S3Store(place, prefix, info) if endpoint else LocalStore(Path(place))
writer = store.open_writer("d/big")
for number in range(40):
    writer.write(bytes([number]) * (1 << 20))
    print(number, flush=True)
writer.close()
"""


def kill_after(megabytes: int, place: str, prefix: str = "", endpoint: str = "") -> None:
    """Start a writer of 40 MiB and SIGKILL it when it has written so many."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, place, prefix, endpoint], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) + 1 >= megabytes:
            break
    process.kill()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL


class TestKilled:
    @pytest.mark.parametrize("megabytes", [1, 9, 30])
    def test_in_the_middle_of_an_upload(self, lab_s3: LabS3, store: S3Store, direct: S3Store, megabytes: int) -> None:
        direct.put("d/big", b"old")
        kill_after(megabytes, direct.bucket, direct.prefix, lab_s3.endpoint)
        assert [item.key for item in direct.list("")] == ["d/big"]
        assert direct.get("d/big") == b"old"
        assert direct.abort_uploads("d/") == (1 if megabytes > 8 else 0)
        assert uploads(direct) == []

    def test_in_the_middle_of_a_local_file(self, tmp_path: Path) -> None:
        kill_after(20, str(tmp_path))
        local = LocalStore(tmp_path)
        assert list(local.list("")) == []
        assert list(local.list_prefixes("")) == []
        assert local.head("d/big") is None
        with pytest.raises(NotFound):
            local.get("d/big")
        assert local.abort_uploads("") == 1
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


FULL_DISK = """
import sys
from pathlib import Path
from dbops.backups.store import LocalStore, StoreRefused
local = LocalStore(Path(sys.argv[1]))
local.put("kept", b"old")
def refused(call):
    try:
        call()
    except StoreRefused as error:
        print(error)
    else:
        raise SystemExit("no error")
    files = sorted(path.name for path in local.directory.rglob("*") if path.is_file())
    assert files == ["kept"], files
    assert local.get("kept") == b"old"
def stream():
    with local.open_writer("d/big") as writer:
        for _ in range(64):
            writer.write(bytes(1 << 20))
refused(stream)
refused(lambda: local.put("kept", bytes(64 << 20)))
local.put("small", b"there is room again")
"""


def run_full_disk(command: list[str], directory: Path, **options: Any) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == 0, done.stderr + done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert str(directory / "d/big") in lines[0]
    assert str(directory / "kept") in lines[1]
    for line in lines:
        assert "MB are free at" in line
        assert "make room or choose another target" in line
    return lines


def can_mount() -> bool:
    tried = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


class TestFullDisk:
    @pytest.mark.skipif(not can_mount(), reason="this system allows no mount in a namespace of one's own")
    def test_no_space_left(self, tmp_path: Path) -> None:
        """A real file system of 8 MiB, mounted in a namespace that ends with the child."""
        script = f'mount -t tmpfs -o size=8m tmpfs "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}"'
        lines = run_full_disk(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, sys.executable, FULL_DISK],
            tmp_path,
        )
        assert all("No space left on device" in line for line in lines)

    def test_a_limit_on_the_size_of_files(self, tmp_path: Path) -> None:
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))\n"
        lines = run_full_disk([sys.executable, "-c", limit + FULL_DISK, str(tmp_path)], tmp_path)
        assert all("File too large" in line for line in lines)


class TestProxy:
    """The proxy itself: without orders it changes nothing."""

    def test_passes_everything(self, store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
        write(store)
        store.put("a b/ü", b"x" * 100, if_absent=True)
        assert sum_of(store) == sum_of(direct)
        assert sorted(item.key for item in store.list("")) == ["a b/ü", "big"]
        store.delete(["big", "a b/ü"])
        assert_nothing_left(direct)
        assert proxy.count("PUT", "partNumber=") == 3

    def test_orders_are_used_up(self, store: S3Store, proxy: FaultProxy) -> None:
        proxy.order(Fault("PUT", "x", times=1, status=503), Fault("PUT", "x", times=1, status=500))
        store.put("x", b"")
        assert proxy.count("PUT") == 3
        store.put("x", b"")
        assert proxy.count("PUT") == 4

    def test_a_stalled_request_whose_client_gave_up_goes_nowhere(
        self, store: S3Store, direct: S3Store, proxy: FaultProxy
    ) -> None:
        proxy.order(Fault("PUT", times=ALWAYS, stall=2))
        with pytest.raises(StoreUnavailable, match="no answer"):
            store.put("late", b"")
        time.sleep(1)
        assert direct.head("late") is None
