-- Purpose:  what VACUUM and ANALYZE of anybody, autovacuum's too, are at now in this database.
-- Source:   pg_stat_progress_vacuum, pg_stat_progress_analyze (columns that have the same names in every version).
-- Rights:   pg_monitor; without it the tables of others are not known.
-- Versions: 14 to 18.
select p.pid, p.relid::regclass::text as "table", p.phase, p.heap_blks_total as pages, p.heap_blks_scanned as scanned,
       a.backend_type, extract(epoch from now() - a.xact_start)::float8 as runs_s
  from pg_stat_progress_vacuum p
  left join pg_stat_activity a on a.pid = p.pid
 where p.datname = current_database()
union all
select p.pid, p.relid::regclass::text, 'analyze: ' || p.phase, p.sample_blks_total, p.sample_blks_scanned,
       a.backend_type, extract(epoch from now() - a.xact_start)::float8
  from pg_stat_progress_analyze p
  left join pg_stat_activity a on a.pid = p.pid
 where p.datname = current_database()
 order by runs_s desc nulls last;
