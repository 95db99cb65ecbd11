"""Official programs as engines, against executables that play conversations.

Those of asbackup and asrestore were recorded (tests/golden/aerospike/official); those of absctl are written down from
its source, since it could not be run.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from backup_world import digest_of, partition_of, tally
from dbops.aerospike import asb, official
from dbops.aerospike.cluster import Access
from dbops.aerospike.drain import Tally
from dbops.aerospike.official import OfficialRestoreResult, Policy, Program, ProgramFailed, ProgramUnusable
from dbops.aerospike.wire import Tls
from dbops.errors import ConfigurationError
from fake_program import VERSIONS, Fake

GOLDEN = Path(__file__).parents[2] / "golden" / "aerospike" / "official"
TEXT = (GOLDEN / "asbackup_first_slice.asb").read_bytes()
SAID = (GOLDEN / "asbackup_first_slice.txt").read_text()
PLAIN = Access("eu", (("127.0.0.1", 3000),))
PASSWORD = 'correct "horse" \\ Batterie ü\n'
GUARDED = Access("eu", (("127.0.0.1", 3000),), "robot", PASSWORD)

ABSCTL_SAID = """time=2026-11-24T20:51:53.000Z level=INFO msg="starting scan backup"

Backup report
-------------
Start Time:          Tue, 24 Nov 2026 20:51:53 UTC
Duration:            113.4ms

Records Read:        {records}
sIndex Read:         {indexes}
UDFs Read:           {udfs}

Bytes Written:       {bytes}
Files Written:       1
"""


def of_absctl(**counters: int) -> str:
    return ABSCTL_SAID.format(**{"records": 0, "indexes": 0, "udfs": 0, "bytes": 0} | counters)


def of_asbackup(records: int, size: int, indexes: int = 0, udfs: int = 0) -> str:
    return (
        f"2026-11-24 20:51:53 GMT [INF] [14218] Backed up {records} record(s), {indexes} secondary index(es), "
        f"{udfs} UDF file(s), {size} byte(s) in total (~151 B/rec)\n"
    )


def text(numbers: range, *, first_file: bool = True) -> bytes:
    records = (
        asb.Record("bidder", digest_of(number), "s", None, 1, 0, (asb.Bin("n", "I", number),)) for number in numbers
    )
    return asb.header("bidder", first_file=first_file) + b"".join(record.text() for record in records)


class Backup:
    """One call of `backup_partitions` and what came of it."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.stored = io.BytesIO()
        self.tally = Tally()

    def __call__(self, first: int = 0, last: int = 4095, access: Access = PLAIN, **options: Any) -> official.Taken:
        program = official.find_program(self.fake.name, str(self.fake.path))  # type: ignore[arg-type]
        return official.backup_partitions(
            program, access, "bidder", first, last, self.stored.write, self.tally, **options
        )

    def fails(self, **options: Any) -> str:
        with pytest.raises(ProgramFailed) as caught:
            self(**options)
        return str(caught.value)


@pytest.fixture
def asbackup(tmp_path: Path) -> Backup:
    return Backup(Fake(tmp_path, "asbackup", stdout=TEXT, stderr=SAID))


@pytest.fixture
def absctl(tmp_path: Path) -> Backup:
    return Backup(Fake(tmp_path, "absctl"))


@pytest.fixture
def asrestore(tmp_path: Path) -> Fake:
    return Fake(tmp_path, "asrestore", stderr=(GOLDEN / "asrestore_all_written.txt").read_text())


@pytest.fixture(autouse=True)
def no_program_is_left() -> Iterator[None]:
    yield
    assert official._running == []


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# ----------------------------------------------------------------------------- find


def test_a_program_is_found_on_the_path_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(tmp_path, "asbackup", version=(GOLDEN / "asbackup_version.txt").read_text())
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert official.find_program("asbackup") == Program("asbackup", str(fake.path), "4.5.8")
    assert official.find_program("asbackup", str(fake.path)).version == "4.5.8"


@pytest.mark.parametrize(
    ("name", "said", "version"),
    [
        ("asrestore", (GOLDEN / "asrestore_version.txt").read_text(), "4.5.8"),
        ("asbackup", "Aerospike Backup Utility\nVersion 3.17.1\nC Client Version 6.4.1\nCopyright ...\n", "3.17.1"),
        ("asbackup", "Aerospike Backup\nVersion 3.12.0\nBuild 5-gabc\n", "3.12.0"),
        ("absctl", VERSIONS["absctl"], "1.1.0"),
        ("absctl", "version: v2.0.1 (abc) \n", "2.0.1"),
    ],
)
def test_each_programs_way_to_say_its_version_is_understood(
    tmp_path: Path, name: official.Name, said: str, version: str
) -> None:
    assert official.find_program(name, str(Fake(tmp_path, name, version=said).path)).version == version


def test_a_missing_program_is_a_matter_of_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ProgramUnusable, match=r"find asbackup: it is not on this worker's PATH; install .*engine: native"
    ):
        official.find_program("asbackup")
    with pytest.raises(ProgramUnusable, match=r"find absctl: /nowhere/absctl cannot be used: No such file"):
        official.find_program("absctl", "/nowhere/absctl")
    assert issubclass(ProgramUnusable, ConfigurationError)


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        ({"version": "Aerospike Backup\nVersion 3.11.2\n"}, "is asbackup 3.11.2: too old, 3.12 is the oldest"),
        ({"version": VERSIONS["asrestore"]}, "said 'Aerospike Restore"),
        ({"version": "version: dev (dev)\n"}, "which is not the version of asbackup"),
        ({"version": "", "version_code": 127}, "exited with status 127"),
        ({"version": "Illegal instruction", "version_code": 132}, r"ended by signal 4 \(SIGILL\)"),
    ],
)
def test_a_wrong_version_or_program_is_refused_with_what_it_said(
    tmp_path: Path, play: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ProgramUnusable, match=reason):
        official.find_program("asbackup", str(Fake(tmp_path, "asbackup", **play).path))


def test_what_cannot_be_started_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "asbackup"
    plain.write_text("no program")
    with pytest.raises(ProgramUnusable, match="cannot be started: Permission denied"):
        official.find_program("asbackup", str(plain))
    plain.chmod(0o755)
    with pytest.raises(ProgramUnusable, match="cannot be started: Exec format error"):
        official.find_program("asbackup", str(plain))


def test_a_program_that_does_not_say_its_version_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(official, "_VERSION_SECONDS", 0.2)
    with pytest.raises(ProgramFailed, match="no answer within 0 s"):
        official.find_program("asbackup", str(Fake(tmp_path, "asbackup", version_seconds=60).path))


def test_the_version_is_asked_once_and_again_when_the_file_is_another(tmp_path: Path) -> None:
    fake = Fake(tmp_path, "asbackup")
    for _ in range(3):
        official.find_program("asbackup", str(fake.path))
    assert fake.asked == 1
    os.utime(fake.path, ns=(1, 1))
    fake.play(version="Aerospike Backup\nVersion 5.0.0\n")
    assert official.find_program("asbackup", str(fake.path)).version == "5.0.0"


# ------------------------------------------------------------------------ arguments


def test_the_first_slice_is_read_with_indexes_and_udfs(asbackup: Backup) -> None:
    asbackup(0, 4095)
    *arguments, state = sorted(asbackup.fake.seen["argv"])
    assert arguments == [
        "--compact",
        "--estimate-samples=1",
        "--host=127.0.0.1:3000",
        "--namespace=bidder",
        "--no-config-file",
        "--output-file=-",
        "--parallel=1",
        "--partition-list=0-4096",
    ]
    assert state.startswith("--state-file-dst=/")
    assert not Path(state.partition("=")[2]).parent.exists()


def test_other_slices_and_limits_are_in_the_arguments(asbackup: Backup) -> None:
    late = text(range(2000, 2001), first_file=False)
    partition = partition_of(digest_of(2000))
    asbackup.fake.play(stdout=late, stderr=of_asbackup(1, len(late)))
    asbackup(partition, partition + 1, records_per_second=500)
    assert {
        f"--partition-list={partition}-2",
        "--records-per-second=500",
        "--no-indexes",
        "--no-udfs",
    } <= set(asbackup.fake.seen["argv"])


def test_absctl_is_told_the_same_in_its_own_words(absctl: Backup) -> None:
    data = text(range(5))
    absctl.fake.play(stdout=data, stderr=of_absctl(records=5, bytes=len(data)))
    absctl(modified_after=datetime(2026, 11, 24, tzinfo=UTC))
    command, *arguments = absctl.fake.seen["argv"]
    assert (command, sorted(arguments)) == (
        "backup",
        [
            "--compact",
            "--host=127.0.0.1:3000",
            "--modified-after=2026-11-24_00:00:00",
            "--namespace=bidder",
            "--output-file=-",
            "--parallel=1",
            "--partition-list=0-4096",
        ],
    )


def test_a_time_is_given_in_utc_which_is_the_programs_local_time(asbackup: Backup) -> None:
    tokyo = timezone(timedelta(hours=9))
    asbackup(modified_after=datetime(2026, 3, 29, 10, 30, 15, 999_999, tzinfo=tokyo))
    assert "--modified-after=2026-03-29_01:30:15" in asbackup.fake.seen["argv"]
    assert asbackup.fake.seen["env"]["TZ"] == "UTC"


def test_tls_and_addresses_are_in_the_arguments(asbackup: Backup) -> None:
    tls = Tls("server-1", "/ca.pem", "/cert.pem", "/key.pem")
    seeds = (("a.example", 4333), ("::1", 3000))
    asbackup(access=Access("eu", seeds, tls=tls, alternate_addresses=True))
    assert {
        "--host=a.example:4333,[::1]:3000",
        "--services-alternate",
        "--tls-enable",
        "--tls-name=server-1",
        "--tls-cafile=/ca.pem",
        "--tls-certfile=/cert.pem",
        "--tls-keyfile=/key.pem",
    } <= set(asbackup.fake.seen["argv"])


def test_the_password_reaches_asbackup_by_a_pipe_alone(asbackup: Backup, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asbackup.fake.play(stderr=f"[ERR] secret {json.dumps(PASSWORD)[1:-1]} is wrong\n{PASSWORD}\n", code=1)
    error = asbackup.fails(access=GUARDED)
    seen = asbackup.fake.seen
    assert "--user=robot" in seen["argv"]
    assert seen["config"] == '[cluster]\npassword = "correct \\"horse\\" \\\\ Batterie ü\\n"\n'
    assert "horse" not in json.dumps([seen["argv"], seen["env"]])
    for shown in (error, caplog.text):
        assert "[ERR] secret *** is wrong" in shown
        assert "horse" not in shown


def test_the_password_reaches_absctl_by_its_environment_alone(absctl: Backup, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    absctl.fake.play(stderr="level=ERROR msg=c2VjcmV0LVdvcmRz\n", code=1)
    error = absctl.fails(access=Access("eu", PLAIN.seeds, "robot", "secret-Words"))
    seen = absctl.fake.seen
    assert "--password=env-b64:DBOPS_AEROSPIKE_PASSWORD" in seen["argv"]
    assert seen["env"]["DBOPS_AEROSPIKE_PASSWORD"] == "c2VjcmV0LVdvcmRz"
    for shown in (" ".join(seen["argv"]), error, caplog.text):
        assert "secret-Words" not in shown
        assert "c2VjcmV0LVdvcmRz" not in shown


def test_the_secrets_of_a_workers_environment_do_not_reach_a_program(
    asbackup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DBOPS_S3", "aws://key:secret@")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/aerospike/lib")
    asbackup()
    env = asbackup.fake.seen["env"]
    assert "AIRFLOW_CONN_DBOPS_S3" not in env
    assert env["LD_LIBRARY_PATH"] == "/opt/aerospike/lib"


# --------------------------------------------------------------------------- backup


def test_a_recorded_slice_is_taken_as_it_is_and_counted(asbackup: Backup) -> None:
    taken = asbackup(0, 2047)
    assert (taken.indexes, taken.udfs) == (["n_idx"], ["f.lua"])
    assert asbackup.stored.getvalue() == TEXT
    digests = [entry.digest for entry in asb.read(io.BytesIO(TEXT))[1] if isinstance(entry, asb.Record)]
    counts, fingerprints = tally(digests)
    assert asbackup.tally.counts.tolist() == counts
    assert asbackup.tally.fingerprints.tolist() == fingerprints


def test_an_empty_slice_is_one(asbackup: Backup) -> None:
    header = asb.header("bidder", first_file=True)
    said = (GOLDEN / "asbackup_empty_slice.txt").read_text().replace(" 43 byte(s)", f" {len(header)} byte(s)")
    asbackup.fake.play(stdout=header, stderr=said)
    assert asbackup(2048, 4095) == official.Taken([], [])
    assert asbackup.tally.records == 0


def test_an_empty_slice_of_absctl_has_a_header_although_absctl_writes_nothing(absctl: Backup) -> None:
    absctl.fake.play(stderr=of_absctl())
    assert absctl(2048, 4095) == official.Taken([], [])
    assert absctl.stored.getvalue() == asb.header("bidder")


def test_absctl_that_writes_nothing_of_what_it_read_has_failed(absctl: Backup) -> None:
    absctl.fake.play(stderr=of_absctl(records=3))
    assert "its text is not whole" in absctl.fails()


def test_more_than_a_pipe_holds_passes(asbackup: Backup) -> None:
    data = text(range(8000))
    assert len(data) > 500_000
    asbackup.fake.play(stdout=data, stderr=of_asbackup(8000, len(data)))
    asbackup()
    assert asbackup.tally.records == 8000


@pytest.mark.parametrize("golden", ["asbackup_unknown_namespace", "asbackup_wrong_password"])
def test_a_bad_exit_is_told_with_the_programs_own_errors(asbackup: Backup, golden: str) -> None:
    said = (GOLDEN / f"{golden}.txt").read_text()
    asbackup.fake.play(stdout=b"", stderr=said, code=1)
    error = asbackup.fails()
    assert error.startswith(
        "asbackup 4.5.8, reading partitions 0-4095 of eu/bidder: exited with status 1; it said: 2026"
    )
    for line in said.splitlines():
        assert (line in error) == ("[ERR]" in line)


def test_a_bad_exit_fails_a_slice_although_text_and_counters_are_whole(asbackup: Backup) -> None:
    asbackup.fake.play(code=1)
    assert "exited with status 1" in asbackup.fails()


@pytest.mark.parametrize(
    "said",
    [
        SAID.replace("Backed up 17 record(s)", "Backed up 18 record(s)"),
        SAID.replace("1 secondary index(es), 1 UDF", "2 secondary index(es), 1 UDF"),
        SAID.replace("1 UDF file(s), ", "0 UDF file(s), "),
        SAID.replace(f"{len(TEXT)} byte(s)", "99 byte(s)"),
        "",
        "Backed up many records",
    ],
)
def test_counters_that_are_not_what_was_counted_fail_the_slice(asbackup: Backup, said: str) -> None:
    assert said != SAID
    asbackup.fake.play(stderr=said)
    error = asbackup.fails()
    assert "says that it wrote" in error
    assert f"'bytes': {len(TEXT)}" in error


def test_last_words_without_a_line_end_count(asbackup: Backup) -> None:
    asbackup.fake.play(stderr=SAID.rstrip("\n"))
    asbackup()
    assert asbackup.tally.records > 0


@pytest.mark.parametrize(
    "data",
    [
        TEXT[:-1],
        TEXT[:-10],
        TEXT[:20],
        b"",
        b"Version 3.1",
        b"x" * 100_000,
        b"Usage: asbackup [options]\n",
        TEXT + b"\n",
    ],
)
def test_text_that_is_not_whole_fails_the_slice(asbackup: Backup, data: bytes) -> None:
    asbackup.fake.play(stdout=data)
    assert "text" in asbackup.fails()


def test_text_that_ends_where_a_record_does_is_caught_by_the_counters(asbackup: Backup) -> None:
    asbackup.fake.play(stdout=TEXT[: TEXT.rindex(b"+ n bidder")])
    assert "says that it wrote" in asbackup.fails()


def test_records_of_other_partitions_fail_the_slice(asbackup: Backup) -> None:
    assert "wrote 17 records of other partitions" in asbackup.fails(first=0, last=0)


def test_text_of_another_namespace_fails_the_slice(asbackup: Backup) -> None:
    asbackup.fake.play(stdout=TEXT.replace(b"# namespace bidder", b"# namespace backup"))
    assert "expected a backup of namespace bidder" in asbackup.fails()


@pytest.mark.parametrize("play", [{"signal": signal.SIGKILL}, {"code": 137}])
@pytest.mark.parametrize("data", [TEXT, TEXT[:500], b""])
def test_a_program_that_the_kernel_killed_is_explained(asbackup: Backup, play: dict[str, int], data: bytes) -> None:
    asbackup.fake.play(stdout=data, stderr="", **play)
    error = asbackup.fails()
    assert "was killed (signal 9, SIGKILL); unless a person did that, the machine or the container was out of " in error
    assert "run fewer slices at once" in error


def test_a_program_that_crashes_is_explained(asbackup: Backup) -> None:
    asbackup.fake.play(stdout=TEXT[:500], signal=signal.SIGSEGV)
    assert "was ended by signal 11 (SIGSEGV)" in asbackup.fails()


@pytest.mark.parametrize("data", [b"", TEXT[:500], TEXT])
def test_a_program_that_hangs_is_killed_with_its_children(
    asbackup: Backup, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(official, "_TICK_SECONDS", 0.05)
    asbackup.fake.play(stdout=data, hangs=True, grandchild=True)
    assert "has neither read, written nor said anything for" in asbackup.fails(silence_seconds=0.4)
    seen = asbackup.fake.seen
    wait_for(lambda: all(map(gone, [seen["pid"], *seen["children"]])))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whatever_ends_the_reading_kills_the_program(
    asbackup: Backup, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(official, "_TICK_SECONDS", 0.05)
    asbackup.fake.play(stdout=TEXT[:500], hangs=True, grandchild=True)
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 4:
            raise error

    with pytest.raises(error):
        asbackup(on_tick=tick)
    seen = asbackup.fake.seen
    wait_for(lambda: all(map(gone, [seen["pid"], *seen["children"]])))


def test_what_takes_the_text_may_fail_and_the_program_is_killed(asbackup: Backup) -> None:
    def full(block: object) -> None:
        raise OSError("no space left")

    asbackup.fake.play(hangs=True)
    program = official.find_program("asbackup", str(asbackup.fake.path))
    with pytest.raises(OSError, match="no space left"):
        official.backup_partitions(program, PLAIN, "bidder", 0, 4095, full, Tally())
    wait_for(lambda: gone(asbackup.fake.seen["pid"]))


def test_stopping_from_outside_ends_the_reading_with_a_reason(asbackup: Backup) -> None:
    asbackup.fake.play(stdout=TEXT[:500], hangs=True)

    def stop() -> None:
        wait_for(Path(f"{asbackup.fake.path}.seen").exists)
        official.stop_programs()

    stopper = threading.Thread(target=stop)
    stopper.start()
    assert "was killed, since its task was told to end" in asbackup.fails()
    stopper.join()


def test_a_program_that_complains_without_end_neither_blocks_nor_floods(
    asbackup: Backup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asbackup.fake.play(stderr="[ERR] a record is odd\n" * 500 + "long" * 50_000 + "\n" + SAID, times=20)
    asbackup()
    assert asbackup.tally.records == 17
    assert 200 <= len(caplog.records) < 250


def test_an_error_is_a_warning_in_the_log_and_the_rest_is_not(
    asbackup: Backup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asbackup.fake.play(stderr=SAID + "[ERR] this\n")
    asbackup()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "asbackup: [ERR] this"
    ]
    assert "asbackup: 2026" in caplog.text


# -------------------------------------------------------------------------- restore


def restore(fake: Fake, chunks: Any = (TEXT,), policy: Policy = "replace", **options: Any) -> OfficialRestoreResult:
    program = official.find_program("asrestore", str(fake.path))
    return official.restore_text(program, options.pop("access", PLAIN), "other", chunks, policy=policy, **options)


def test_a_text_is_given_to_asrestore_as_it_is(asrestore: Fake) -> None:
    chunks = [TEXT[at : at + 1000] for at in range(0, len(TEXT), 1000)]
    result = restore(asrestore, iter(chunks), source="bidder", records=17)
    assert result == OfficialRestoreResult(17, 17, 0, 0, 0, 0, indexes=1, udfs=1)
    assert asrestore.seen["stdin"].encode("latin-1") == TEXT
    assert asrestore.seen["argv"] == [
        "--namespace=bidder,other",
        "--input-file=-",
        "--replace",
        "--no-generation",
        "--host=127.0.0.1:3000",
        "--no-config-file",
    ]


def test_filters_and_policies_are_in_the_arguments(asrestore: Fake) -> None:
    said = (GOLDEN / "asrestore_none_newer.txt").read_text()
    asrestore.play(stderr=said)
    found = restore(
        asrestore, policy="newer", indexes=False, sets=["a", "b c"], bins=["n"], extra_ttl=timedelta(minutes=2)
    )
    assert found == OfficialRestoreResult(17, 0, 0, 17, 0, 0, indexes=1, udfs=1)
    assert asrestore.seen["argv"][:-2] == [
        "--namespace=other,other",
        "--input-file=-",
        "--no-indexes",
        "--no-udfs",
        "--set-list=a,b c",
        "--bin-list=n",
        "--extra-ttl=120",
    ]
    asrestore.play(stderr=(GOLDEN / "asrestore_all_existed.txt").read_text())
    assert restore(asrestore, policy="missing").existed == 17
    assert "--unique" in asrestore.seen["argv"]
    asrestore.play(stderr=(GOLDEN / "asrestore_all_written.txt").read_text())
    assert restore(asrestore, policy="update").inserted == 17
    assert ("--no-generation" in asrestore.seen["argv"], "--replace" in asrestore.seen["argv"]) == (True, False)


def test_a_name_that_asrestore_cannot_be_told_is_refused(asrestore: Fake) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be told of 'a,b'; restore with the engine native"):
        restore(asrestore, sets=["a,b"])


def test_records_that_the_policy_does_not_leave_out_have_failed_although_the_exit_is_0(asrestore: Fake) -> None:
    for golden, policy in (("none_newer", "replace"), ("none_newer", "update"), ("all_existed", "newer")):
        asrestore.play(stderr=(GOLDEN / f"asrestore_{golden}.txt").read_text())
        with pytest.raises(ProgramFailed, match=f"did not write every record, as the policy {policy} asks for"):
            restore(asrestore, policy=policy)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("inserted 17", "inserted 16", "read 17 records and accounts for 16"),
        ("err_ignored 0", "err_ignored 1", "1 were refused"),
        ("17 record(s)", "16 record(s)", "says that it read 16 records, the text holds 17"),
        ("Expired", "Lost", "did not say what it restored"),
        ("UDF file(s)", "files", "did not say what it restored"),
    ],
)
def test_every_record_of_a_restore_is_accounted_for(asrestore: Fake, old: str, new: str, reason: str) -> None:
    said = (GOLDEN / "asrestore_all_written.txt").read_text()
    assert old in said
    asrestore.play(stderr=said.replace(old, new))
    with pytest.raises(ProgramFailed, match=reason):
        restore(asrestore, records=17)


def test_the_last_counters_of_a_restore_count(asrestore: Fake) -> None:
    said = (GOLDEN / "asrestore_all_written.txt").read_text()
    asrestore.play(stderr=said.replace("17 record", "3 record").replace("inserted 17", "inserted 1") + said)
    assert restore(asrestore).inserted == 17


def test_a_text_that_asrestore_cannot_read_is_told_with_its_errors(asrestore: Fake) -> None:
    asrestore.play(stderr=(GOLDEN / "asrestore_cut_text.txt").read_text(), code=1)
    with pytest.raises(
        ProgramFailed, match=r"restoring into eu/other: exited with status 1; it said: .*Unexpected end"
    ):
        restore(asrestore, [TEXT[:-10]])


@pytest.mark.parametrize("code", [0, 1])
def test_a_program_that_stops_reading_has_failed(asrestore: Fake, code: int) -> None:
    asrestore.play(reads=100, code=code)
    with pytest.raises(ProgramFailed, match=r"exited with (status 1|0 before it had read everything)"):
        restore(asrestore, (bytes(1 << 16) for _ in range(100)))


def test_a_program_that_does_not_read_is_killed(asrestore: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "_TICK_SECONDS", 0.05)
    asrestore.play(reads=100, hangs=True, stderr="")
    with pytest.raises(ProgramFailed, match="has neither read, written nor said anything"):
        restore(asrestore, (bytes(1 << 16) for _ in range(100)), silence_seconds=0.5)
    wait_for(lambda: gone(asrestore.seen["pid"]))


def test_a_text_that_fails_on_its_way_does_not_look_like_its_end(asrestore: Fake) -> None:
    def damaged() -> Iterator[bytes]:
        yield TEXT[:1000]
        raise asb.AsbError("the object is damaged")

    with pytest.raises(asb.AsbError, match="the object is damaged"):
        restore(asrestore, damaged())
    assert not Path(f"{asrestore.path}.seen").exists(), "it was killed before it saw an end of its input"


def test_asrestore_gets_the_password_by_a_pipe_too(asrestore: Fake) -> None:
    restore(asrestore, access=GUARDED)
    assert "Batterie" in asrestore.seen["config"]
    assert "Batterie" not in json.dumps([asrestore.seen["argv"], asrestore.seen["env"]])
