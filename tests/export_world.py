"""A database with everything that makes an export hard, the platform that exports it, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dbops.connections import ConnectionInfo
from dbops.platform import ExportScratch, Postgres, PostgresExport, PostgresExports
from dbops.postgres.export import export
from dbops.postgres.exports import ExportManifest
from dbops_lab.testing import LabS3
from postgres_world import OWNER, World

TABLES = """
create schema "Odd one";
create type public.state as enum ('draft', 'active', 'paused');
create table public.campaigns (
    id bigint generated always as identity primary key, name text not null, state public.state not null default 'draft',
    budget numeric(12, 2), labels jsonb, raw bytea, at timestamptz not null, rate double precision,
    twice numeric generated always as (budget * 2) stored);
create table public.line_items (
    id bigint primary key, campaign_id bigint not null references public.campaigns (id), note text, span interval);
create table public.events (at date not null, n bigint not null, t text) partition by range (at);
create table public.events_01 partition of public.events for values from ('2026-01-01') to ('2026-02-01');
create table public.events_02 partition of public.events for values from ('2026-02-01') to ('2026-03-01');
create table "Odd one"."Big, table" ("t" text, "select" int, price money, tags text[]);
create table public.empty (id int);
create table public.audit (id bigint, what text);
create materialized view public.totals as select count(*) as n from public.campaigns;
create view public.active as select * from public.campaigns where state = 'active';
insert into public.campaigns (name, state, budget, labels, raw, at, rate)
select 'campaign ' || n, (array['draft', 'active', 'paused'])[1 + n % 3]::public.state, n * 1.5,
       jsonb_build_object('n', n), decode(md5(n::text), 'hex'), '2026-11-22 02:00Z'::timestamptz + n * interval '1 min',
       n / 3.0
  from generate_series(1, {rows}) n;
insert into public.line_items select n, n, repeat('n', n % 50), n * interval '1 hour' from generate_series(1, {rows}) n;
insert into public.events select '2026-01-01'::date + n % 59, n, md5(n::text) from generate_series(1, {rows}) n;
insert into "Odd one"."Big, table" select 'é' || n, n, n * 1.1, array['a', null] from generate_series(1, 50) n;
insert into public.audit select n, md5(n::text) from generate_series(1, {rows}) n;
"""
SHA = "0" * 64


@dataclass
class Exported:
    """`store` holds what `make` exports; `settings` and `one` may be replaced."""

    world: World
    database: str
    s3: LabS3
    store: Any
    postgres: Postgres

    @property
    def settings(self) -> PostgresExports:
        assert self.postgres.exports is not None
        return self.postgres.exports

    @property
    def info(self) -> ConnectionInfo:
        return self.world.info(OWNER, "dbops_postgres_export")

    def change(self, name: str = "all", **words: Any) -> None:
        """Other settings of the exports, or of one."""
        own = {key: words.pop(key) for key in list(words) if key in PostgresExport.model_fields}
        sets = tuple(one.model_copy(update=own) if one.name == name else one for one in self.settings.sets)
        exports = self.settings.model_copy(update={"sets": sets, **words})
        self.postgres = self.postgres.model_copy(update={"exports": exports})

    def make(self, name: str = "all", run: str = "run/1", **words: Any) -> ExportManifest:
        info = words.pop("info", self.info)
        return export(self.store, self.postgres, name, info, run=run, platform_sha256=SHA, **words)

    def run(self, *statements: str) -> list[Any]:
        return self.world.run(self.database, *statements)

    def stored(self) -> list[str]:
        return sorted(item.key for item in self.store.list(""))


def exported_world(world: World, s3: LabS3, store: Any, folder: Path, rows: int = 2000) -> Exported:
    database = world.new_database()
    for statement in TABLES.format(rows=rows).split(";\n"):
        if statement.strip():
            world.run(database, statement)
    sets = (
        PostgresExport(name="all", database=database),
        PostgresExport(name="some", database=database, tables=("public.line_items", "public.events")),
    )
    exports = PostgresExports(
        programs=str(world.server.binaries),
        work_folder=str(folder),
        sets=sets,
        scratch=ExportScratch(on_the_instance=True),
    )
    postgres = Postgres(name="exchange", databases=(database,), exports=exports)
    with world.admin() as cursor:
        cursor.execute(f"alter role {OWNER} createdb")
    return Exported(world, database, s3, store, postgres)


def scratch_of(world: World) -> ConnectionInfo:
    return replace(world.info(OWNER, "dbops_postgres_scratch"), schema="postgres")
