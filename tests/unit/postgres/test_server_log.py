"""Entries are found in a log whichever way it arrives, and a look that is interrupted loses and doubles none."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from dbops.platform import Postgres
from dbops.postgres.audit import check_ddl
from dbops.postgres.log_sources import LogFile, LogReader, Piece, Position, from_details, to_details
from dbops.postgres.server_log import LONGEST_ENTRY, CsvFormat, LogUnreadable, StderrFormat, format_of

NOW = datetime(2026, 11, 25, 4, tzinfo=UTC)
RDS = "%t:%r:%u@%d:[%p]:"
HEAD = "2026-11-25 03:00:01 UTC:10.0.0.7(50122):exchange@shop:[12]:"
STDERR = (
    f"{HEAD}LOG:  statement: create table a (\n\tid int,\n\tt text)\n"
    "2026-11-25 03:00:02 UTC::@:[9]:LOG:  checkpoint starting: time\n"
    f"{HEAD}LOG:  duration: 1.2 ms  execute <unnamed>: drop table a\n"
    f"{HEAD}DETAIL:  parameters: $1 = 'x'\n"
    f"{HEAD}ERROR:  relation does not exist at character 3\n"
    f"{HEAD}STATEMENT:  alter table gone add x int\n"
    f'{HEAD}LOG:  AUDIT: SESSION,1,1,DDL,ALTER TABLE,TABLE,public.a,"alter table a add ""B"" int",<none>\n'
    f"{HEAD}LOG:  AUDIT: SESSION,2,1,ROLE,ALTER ROLE,,,<not logged>,<not logged>\n"
    f"{HEAD}LOG:  AUDIT: SESSION,3,1,WRITE,INSERT,TABLE,public.a,insert into a values (1),<none>\n"
)
STATEMENTS = ["create table a (\nid int,\nt text)", "drop table a", 'alter table a add "B" int', "ALTER ROLE"]


def csv_line(message: str, role: str = "exchange") -> str:
    quoted = message.replace('"', '""')
    head = (
        f"2026-11-25 03:00:01.123 UTC,{role!r},shop,12,10.0.0.7:5,65.1,1,idle,2026-11-25 03:00:00 UTC,3/4,0,LOG,00000"
    )
    return head.replace("'", '"') + f',"{quoted}",,,,,,,,,"terminal",client backend,,0\n'


class Kept:
    """A log that grows, of which a read gives a few bytes."""

    def __init__(self, piece: int) -> None:
        self.files_: dict[str, bytes] = {}
        self.piece, self.read_bytes = piece, 0

    def files(self) -> list[LogFile]:
        return [LogFile(name, len(data), NOW) for name, data in sorted(self.files_.items())]

    def identity(self, file: LogFile) -> str:
        return self.files_[file.name][:23].decode()

    def read(self, file: LogFile, marker: str) -> Piece:
        first = int(marker)
        data = self.files_[file.name][first : first + self.piece]
        self.read_bytes += len(data)
        return Piece(data, str(first + len(data)), first + len(data) >= len(self.files_[file.name]))


@pytest.mark.parametrize("piece", [1, 7, 64, 10_000])
def test_entries_are_found_however_the_log_is_cut(piece: int) -> None:
    log = Kept(piece)
    log.files_ = {"a": STDERR.encode()}
    reader = LogReader(log, StderrFormat(RDS), {}, NOW, 1 << 30)
    found = list(reader.entries())
    assert [entry.sql.strip() for entry in found] == STATEMENTS
    assert {(entry.role, entry.database) for entry in found} == {("exchange", "shop")}
    assert reader.positions["a"].skip == 0
    assert list(LogReader(log, StderrFormat(RDS), reader.positions, NOW, 1 << 30).entries()) == []


@pytest.mark.parametrize("form", ["stderr", "csv"])
def test_looks_at_a_growing_log_find_each_statement_once(form: str) -> None:
    picks = random.Random(form)
    made = [f"create table t{number} (\n  note text default '\"x')" for number in range(200)]
    if form == "csv":
        text = "".join(csv_line(f"statement: {statement}") for statement in made)
    else:
        text = "".join(f"{HEAD}LOG:  statement: {statement}\n".replace("\n  ", "\n\t  ") for statement in made)
    whole, known, found = text.encode(), dict[str, Position](), []
    kind = CsvFormat() if form == "csv" else StderrFormat(RDS)
    for end in [*sorted(picks.sample(range(len(whole)), 60)), len(whole)]:
        log = Kept(picks.choice([50, 333, 5000]))
        log.files_ = {"a": whole[:end]}
        reader = LogReader(log, kind, from_details(to_details(known)), NOW, 1 << 30)
        found += [entry.sql.split()[2] for entry in reader.entries()]
        known = reader.positions
    # An entry of several lines of which the last were not there yet is given out as it was; none is lost or doubled.
    assert found == [f"t{number}" for number in range(200)]


def test_a_look_that_has_read_enough_goes_on_there_the_next_time() -> None:
    log = Kept(100)
    log.files_ = {name: STDERR.encode() for name in ("a", "b", "c")}
    known, found, left = dict[str, Position](), list[str](), []
    for _ in range(20):
        reader = LogReader(log, StderrFormat(RDS), known, NOW, 500)
        found += [entry.sql.strip() for entry in reader.entries()]
        known = reader.positions
        assert reader.bytes <= 600
        left.append(reader.left)
    assert found == STATEMENTS * 3
    assert (left[0] > 0, left[-1]) == (True, 0)


def test_a_file_that_was_begun_anew_is_read_from_its_start_and_old_ones_are_left() -> None:
    log = Kept(1000)
    log.files_ = {"monday": STDERR.encode()}
    reader = LogReader(log, StderrFormat(RDS), {}, NOW, 1 << 30)
    assert len(list(reader.entries())) == 4
    log.files_ = {"monday": STDERR.replace("2026-11-25", "2026-12-02").encode() * 2}
    again = LogReader(log, StderrFormat(RDS), reader.positions, NOW, 1 << 30)
    assert len(list(again.entries())) == 8
    late = LogReader(log, StderrFormat(RDS), {}, NOW + timedelta(days=1), 1 << 30)
    assert list(late.entries()) == []


def test_an_entry_of_any_length_is_held_up_to_a_bound() -> None:
    long = "create table a (x text default '" + "y" * 10 * LONGEST_ENTRY + "')"
    log = Kept(1 << 16)
    log.files_ = {"a": f"{HEAD}LOG:  statement: {long}\n{STDERR}".encode()}
    found = [entry.sql for entry in LogReader(log, StderrFormat(RDS), {}, NOW, 1 << 30).entries()]
    assert len(found) == 5
    assert len(found[0]) <= LONGEST_ENTRY
    log.files_ = {"a": (csv_line(f"statement: {long}") + csv_line("statement: drop table b")).encode()}
    found = [entry.sql for entry in LogReader(log, CsvFormat(), {}, NOW, 1 << 30).entries()]
    assert [len(found[0]) <= LONGEST_ENTRY, found[1]] == [True, "drop table b"]


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("%m [%p] %q%u@%d %a ", "2026-11-25 03:00:01.123 UTC [77] exchange@shop psql "),
        (
            "%t [%p]: user=%u,db=%d,app=%a,client=%h ",
            "2026-11-25 03:00:01 UTC [7]: user=exchange,db=shop,app=,client=::1 ",
        ),
        ("%-12u|%8d|%e %c %l %v %x %% ", "exchange    |    shop|00000 5e1a.4b 3 3/17 0 % "),
    ],
)
def test_prefixes_of_many_kinds_are_read(prefix: str, head: str) -> None:
    background = "2026-11-25 03:00:01.123 UTC [77] LOG:  checkpoint complete\n" if "%q" in prefix else ""
    log = Kept(1000)
    log.files_ = {
        "a": f"{head}LOG:  statement: drop table a\n{background}{head}LOG:  statement: drop table b\n".encode()
    }
    found = list(LogReader(log, StderrFormat(prefix), {}, NOW, 1 << 30).entries())
    assert [(entry.role, entry.database, entry.sql.strip()) for entry in found] == [
        ("exchange", "shop", "drop table a"), ("exchange", "shop", "drop table b")]  # fmt: skip


def test_a_statement_cannot_forge_an_entry() -> None:
    text = f"{HEAD}LOG:  statement: select '\n\t{HEAD.replace('exchange@', 'admin@')}LOG:  statement: drop table a\r"
    text += f"{HEAD.replace('exchange@', 'admin@')}LOG:  statement: drop table b'\n"
    log = Kept(10)
    log.files_ = {"a": text.encode()}
    assert {entry.role for entry in LogReader(log, StderrFormat(RDS), {}, NOW, 1 << 30).entries()} == {"exchange"}


def test_a_log_that_says_not_who_or_in_no_known_form_is_refused() -> None:
    with pytest.raises(LogUnreadable, match=r"no %d \(database\)"):
        format_of("stderr", "%m [%p] %u ")
    with pytest.raises(LogUnreadable, match="stderr or csvlog"):
        format_of("jsonlog,syslog", RDS)


def test_changes_by_others_are_told_folded_and_masked_and_those_of_the_migrations_are_not() -> None:
    postgres = Postgres.model_validate({
        "name": "shop",
        "databases": ["shop"],
        "audit": {"log": "server", "ddl_roles": ["migrator"]},
    })
    log = Kept(1000)
    log.files_ = {
        "a": "".join(
            [csv_line("statement: alter role x password 'geheim'")] * 3
            + [csv_line("AUDIT: SESSION,1,1,ROLE,ALTER ROLE,,,alter role x password 'geheim',<none>")]
            + [csv_line("statement: create table a ()", "migrator"), csv_line("statement: select 1")]
        ).encode()
    }
    check, positions = check_ddl(postgres, log, CsvFormat(), {}, NOW)
    assert (check.value, check.severity, check.details["expected"]) == (3, "warning", 1)
    assert "exchange@shop, 2026-11-25 03:00:01.123 UTC, 3 times: alter role x password '***'" in check.message
    assert "geheim" not in f"{check}{positions}"
    check, _ = check_ddl(postgres, log, CsvFormat(), positions, NOW)
    assert (check.ok, check.value) == (True, 0)
