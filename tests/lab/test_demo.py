"""The demonstration does the platform's main job for real, says so honestly, and leaves nothing behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def start(state: Path, out: Path, before: str = "") -> subprocess.Popen[bytes]:
    script = f"import sys; from pathlib import Path; from dbops_lab import demo; demo.STATE = Path({str(state)!r})\n"
    with out.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", f"{script}{before}\nsys.exit(demo.main())"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def left_in(state: Path) -> list[str]:
    """Processes that work in the folder or name it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        words = [*(process.info["cmdline"] or ()), process.info["cwd"] or ""]
        if any(str(state) in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(" ".join(words))
    return found


def test_it_backs_up_changes_and_verifies_through_airflow(tmp_path: Path) -> None:
    state, out = tmp_path / "lab", tmp_path / "out"
    ended = start(state, out).wait()
    text = out.read_text()
    assert ended == 0, text
    assert "everything happened as expected" in text
    for number in (300_000, 150_000):
        assert f"{number:,}" in text
    assert re.search(r"Backups lie in\s+s3://\w", text)
    assert "records are as they were in the snapshot" in text  # the lost namespace, restored after an approval
    assert "RTO 900 s" in text  # a drill that nobody asked for
    assert "compared again: 0 differ" in " ".join(text.split())  # drift of the synchronisation, repaired
    assert "of public.targeting_rules are as they were at" in " ".join(text.split())  # PostgreSQL, recovered
    assert not left_in(state)
    assert not state.exists()


@pytest.mark.parametrize(
    ("number", "when"), [(signal.SIGINT, "Starting Airflow"), (signal.SIGTERM, "Starting the lab")]
)
def test_interrupted_it_stops_all_that_it_started(tmp_path: Path, number: signal.Signals, when: str) -> None:
    state, out = tmp_path / "lab", tmp_path / "out"
    demo = start(state, out)
    deadline = time.monotonic() + 120
    while when not in out.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)
    demo.send_signal(number)
    assert demo.wait(120) == 130, out.read_text()
    assert "has been stopped" in out.read_text()
    assert not left_in(state)
    assert not state.exists()


def test_killed_it_leaves_no_process_and_the_next_one_starts_clean(tmp_path: Path) -> None:
    state, out = tmp_path / "lab", tmp_path / "out"
    demo = start(state, out)
    deadline = time.monotonic() + 120
    while "Starting Airflow" not in out.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    demo.kill()
    demo.wait()
    deadline = time.monotonic() + 30
    while left_in(state) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left_in(state)
    again = start(state, out)
    while "Starting Airflow" not in out.read_text() and again.poll() is None:
        time.sleep(0.05)
    again.send_signal(signal.SIGINT)
    assert again.wait(120) == 130, out.read_text()
    assert not state.exists()


def test_what_did_not_happen_as_expected_is_named_and_fails(tmp_path: Path) -> None:
    state, out = tmp_path / "lab", tmp_path / "out"
    assert start(state, out, "demo.seed = lambda lab: {}").wait() == 1
    text = " ".join(out.read_text().split())
    assert "not as expected: the clusters and the warehouse could not be filled" in text
    assert "FAILED" in text
    assert not left_in(state)
    assert not state.exists()
