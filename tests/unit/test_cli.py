"""The `dbops` command: real processes, exit codes, one clear message, and no secret."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dbops
import pytest
from dbops.cli import app, read_env
from dbops.errors import ConfigurationError
from dbops.platform.load import DIRECTORY
from typer.testing import CliRunner

DBOPS = Path(sys.executable).with_name("dbops")
PRODUCTION = (DIRECTORY / "production.yaml").read_text()

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Run:
    def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DBOPS_")}
        return subprocess.run(
            [DBOPS, *args], capture_output=True, text=True, timeout=60,
            env={**clean, "COLUMNS": "100", "NO_COLOR": "1", **environment},
        )  # fmt: skip

    return run


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text(PRODUCTION.replace("slices: 64", "slices: 999").replace("rpo: 7h", "rpo: 7"))
    return file


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with a package that brings commands, as the lab does."""
    (tmp_path / "extra.py").write_text('''"""`dbops extra ...`: commands from elsewhere."""
import os, time
import typer
from dbops.errors import ConfigurationError, FinalError, RetryableError
app = typer.Typer(help="Commands from elsewhere.")
@app.command()
def fail(kind: str) -> None:
    password = "hunter2-in-a-local"
    error = {"retry": RetryableError, "final": FinalError, "configuration": ConfigurationError, "bug": ValueError}
    raise error[kind]("cannot connect to postgres://ops:hunter2@db/x")
@app.command()
def wait() -> None:
    print("waiting", flush=True)
    time.sleep(60)
@app.command()
def show(name: str) -> None:
    print(os.environ.get(name, "unset"))
''')
    info = tmp_path / "extra-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[dbops.commands]\nextra = extra:app\nbroken = not_there.cli:app\n")
    return tmp_path


def test_version(run: Run) -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"dbops {dbops.__version__}\n")


def test_help_lists_every_group_and_the_exit_codes(run: Run, plugin: Path) -> None:
    done = run("--help", PYTHONPATH=str(plugin))
    assert done.returncode == 0
    for text in ("platform", "backup", "ledger", "lab", "extra", "--lab", "Exit codes: 0 done; 1 failed"):
        assert text in done.stdout
    assert "Commands from elsewhere." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_imports_no_group_and_nothing_heavy() -> None:
    code = (
        "import sys, time; before = time.process_time()\n"
        "from dbops.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr); print(time.process_time() - before, file=sys.stderr)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(3)]
    loaded = set(runs[0].stderr.splitlines()[-2].split())
    assert loaded.isdisjoint({
        "dbops.platform", "dbops.backups", "dbops.ledger", "dbops_lab.cli",
        "pydantic", "yaml", "numpy", "numba", "boto3", "sqlalchemy", "airflow",
    })  # fmt: skip
    assert min(float(done.stderr.splitlines()[-1]) for done in runs) < 0.8  # 0.33 s on a quiet machine


def test_no_arguments_show_the_help_and_are_wrong_usage(run: Run) -> None:
    done = run()
    assert done.returncode == 2
    assert "Usage: dbops" in done.stdout + done.stderr


@pytest.mark.parametrize("args", [["nonsense"], ["--nonsense"], ["platform", "check", "--nonsense"]])
def test_wrong_usage_exits_with_2(run: Run, args: list[str]) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert "No such" in done.stderr


def test_a_misspelt_group_is_suggested(run: Run) -> None:
    assert "Did you mean 'platform'?" in run("platfrom").stderr


@pytest.mark.parametrize(("kind", "code"), [("retry", 1), ("final", 1), ("configuration", 2)])
def test_our_errors_are_one_message_without_traceback_or_secret(run: Run, plugin: Path, kind: str, code: int) -> None:
    done = run("extra", "fail", kind, PYTHONPATH=str(plugin))
    assert done.returncode == code
    assert done.stderr == "error: cannot connect to postgres://ops:***@db/x\n"
    assert done.stdout == ""


def test_a_bug_keeps_its_traceback_without_the_values_of_variables(run: Run, plugin: Path) -> None:
    done = run("extra", "fail", "bug", PYTHONPATH=str(plugin))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError" in done.stderr
    assert "hunter2-in-a-local'" not in done.stderr


def test_a_group_that_cannot_be_imported_says_what_to_install(run: Run, plugin: Path) -> None:
    done = run("broken", "x", PYTHONPATH=str(plugin))
    assert done.returncode == 2
    assert "dbops broken: not_there.cli cannot be imported" in done.stderr
    assert "requirements" in done.stderr
    assert "broken" in run("--help", PYTHONPATH=str(plugin)).stdout


def test_interrupted_exits_with_130(plugin: Path) -> None:
    with subprocess.Popen(
        [DBOPS, "extra", "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(plugin)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert "Traceback" not in process.stderr.read()


def test_a_reader_that_leaves_early_is_no_traceback(plugin: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"'{DBOPS}' platform check | head -1"], capture_output=True, text=True, timeout=60
    )
    assert "Platform" in done.stdout
    assert "Traceback" not in done.stderr


def lab_file(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "env").write_text(
        "# written by the lab\n"
        "DBOPS_PLATFORM=lab\n\n"
        "export AIRFLOW_CONN_AEROSPIKE_EU='{\"conn_type\": \"aerospike\", \"password\": \"a b\\'\"'\"'\"c#\"}'\n"
        'EMPTY=\n'
        'QUOTED="a $HOME b"\n'
    )  # fmt: skip


def test_lab_takes_the_environment_of_the_running_lab_over_the_callers(run: Run, plugin: Path, tmp_path: Path) -> None:
    lab_file(tmp_path / "lab")
    settings = {"PYTHONPATH": str(plugin), "DBOPS_LAB": str(tmp_path / "lab"), "DBOPS_PLATFORM": "production"}
    assert run("--lab", "extra", "show", "DBOPS_PLATFORM", **settings).stdout == "lab\n"
    assert run("extra", "show", "DBOPS_PLATFORM", **settings).stdout == "production\n"
    assert json.loads(run("--lab", "platform", "check", "--json", **settings).stdout)["platform"]["name"] == "lab"


def test_lab_without_a_running_lab_says_how_to_start_one(run: Run, tmp_path: Path) -> None:
    done = run("--lab", "platform", "check", DBOPS_LAB=str(tmp_path / "none"))
    assert done.returncode == 2
    assert "start the lab with `dbops lab up`" in done.stderr


def test_the_labs_file_is_read_as_a_shell_reads_it(tmp_path: Path) -> None:
    lab_file(tmp_path / "lab")
    found = read_env(tmp_path / "lab" / "env")
    assert set(found) == {"DBOPS_PLATFORM", "AIRFLOW_CONN_AEROSPIKE_EU", "EMPTY", "QUOTED"}
    shell = subprocess.run(
        ["sh", "-c", f"set -a; . '{tmp_path}/lab/env'; printf %s \"$AIRFLOW_CONN_AEROSPIKE_EU\""],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found["AIRFLOW_CONN_AEROSPIKE_EU"] == shell.stdout
    assert found["EMPTY"] == ""


@pytest.mark.parametrize("line", ["just text", "A=b c", "A='open", "1A=x", "=x"])
def test_a_line_that_is_no_variable_is_refused_without_its_value(tmp_path: Path, line: str) -> None:
    (tmp_path / "env").write_text(f"OK=1\n{line}\n")
    with pytest.raises(ConfigurationError, match="line 2 of") as caught:
        read_env(tmp_path / "env")
    assert line not in str(caught.value)


def platform(*args: str, **environment: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["platform", *args], env={"COLUMNS": "100", **environment})
    return done.exit_code, done.output


def test_check_prints_what_exists_within_a_hundred_columns() -> None:
    code, text = platform("check", "--file", "production")
    assert code == 0
    for shown in (
        "Platform production is valid", "s3://bedrock-backups", "replicated to eu-central-1",
        "aero.eu-west1.bedrockplatform.bid:31000", "aero.apac-tokyo.bedrockplatform.bid:31000",
        "aerospike_eu: 8", "lineitems, creatives", "mapping, segments", "not tracked", "30 d",
        "0 0,6,12,18 * * *", "#alerts and PagerDuty", "aerospike_memory", "75 %", "90 %", "configuration",
        "6 h 31 min", "met", "guide asks 6 h: not provable with these schedules (6 h 31 min)", "RTO not proven",
    ):  # fmt: skip
        assert shown in text
    assert max(map(len, text.splitlines())) <= 100


def test_check_takes_the_platform_of_the_environment() -> None:
    code, text = platform("check", DBOPS_PLATFORM="staging")
    assert code == 0
    assert "Platform staging is valid" in text


def test_check_as_json_holds_the_platform_next_runs_and_the_proof() -> None:
    code, text = platform("check", "--file", "production", "--json")
    found: dict[str, Any] = json.loads(text)
    assert code == 0
    assert found["valid"] is found["ok"] is True
    assert found["platform"]["retention"] == {
        "full": "30d",
        "incremental": "30d",
        "floor": 2,
        "max_share": 0.5,
        "grace": "1d",
    }
    assert [proof["worst_seconds"] for proof in found["rpo"]] == [6 * 3600 + 31 * 60] * 2
    runs = [datetime.fromisoformat(at) for at in found["next_runs"]["eu"]["incremental"]]
    assert all(at > datetime.now(UTC) and at.hour in {0, 6, 12, 18} and at.minute == 0 for at in runs)
    assert runs == sorted(runs)


def test_check_fails_when_an_rpo_cannot_be_met(tmp_path: Path) -> None:
    file = tmp_path / "tight.yaml"
    file.write_text(PRODUCTION.replace("rpo: 7h", "rpo: 6h"))
    code, text = platform("check", "--file", str(file))
    assert code == 1
    assert "NOT MET" in text
    code, text = platform("check", "--file", str(file), "--json")
    assert code == 1
    assert json.loads(text)["ok"] is False


def test_check_warns_of_runs_that_delay_each_other(tmp_path: Path) -> None:
    file = tmp_path / "slow.yaml"
    file.write_text(PRODUCTION.replace("full: 2h", "full: 5h"))
    text = platform("check", "--file", str(file))[1]
    assert "warning eu: full of 02:00 may take 5 h" in text


def test_check_refuses_a_bad_file_with_all_its_problems(run: Run, bad: Path) -> None:
    done = run("platform", "check", "--file", str(bad))
    assert done.returncode == 2
    assert "bad.yaml: objectives.aerospike.rpo: 7: is no duration" in done.stderr
    assert "bad.yaml: aerospike.clusters[0].slices: 999: input should be less than or equal to 256" in done.stderr
    assert "bad.yaml: aerospike.clusters[1].slices: 999" in done.stderr
    assert "Traceback" not in done.stderr
    as_json = run("platform", "check", "--json", "--file", str(bad))
    assert as_json.returncode == 2
    found = json.loads(as_json.stdout)
    assert found["valid"] is False
    assert [problem["path"] for problem in found["problems"]] == [
        "objectives.aerospike.rpo",
        "aerospike.clusters[0].slices",
        "aerospike.clusters[1].slices",
    ]
    assert all(problem["line"] for problem in found["problems"])


def test_check_of_a_missing_file_names_those_that_exist(run: Run) -> None:
    done = run("platform", "check", "--file", "nowhere")
    assert done.returncode == 2
    assert "nowhere.yaml: no such file" in done.stderr
    assert "lab, production, staging" in done.stderr


def test_pools_are_what_airflow_imports() -> None:
    code, text = platform("pools", "--file", "production")
    assert code == 0
    found = json.loads(text)
    assert set(found) == {"aerospike_eu", "aerospike_apac"}
    for pool in found.values():
        assert pool["slots"] == 8
        assert set(pool) == {"slots", "description", "include_deferred"}
