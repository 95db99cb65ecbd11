-- Purpose:  what runs on the server that a change of the schema would wait for, or that would be in its way: VACUUM, ANALYZE,
--           index builds, rewrites, base backups. An ordinary autovacuum gives way to whoever wants its lock.
-- Source:   the pg_stat_progress_ views.
-- Rights:   pg_monitor; without it what others run has no name.
-- Versions: 14 to 18.
select p.pid, p.datname as database, p.what, a.usename as role, a.backend_type,
       a.backend_type = 'autovacuum worker' and a.query not like '%(to prevent wraparound)%' as gives_way,
       extract(epoch from now() - a.xact_start)::float8 as runs_s
  from (select pid, datname, 'VACUUM' as what from pg_stat_progress_vacuum
        union all select pid, datname, 'ANALYZE' from pg_stat_progress_analyze
        union all select pid, datname, command from pg_stat_progress_create_index
        union all select pid, datname, command from pg_stat_progress_cluster
        union all select pid, null, 'base backup' from pg_stat_progress_basebackup) as p
  left join pg_stat_activity a on a.pid = p.pid
 order by runs_s desc nulls last;
