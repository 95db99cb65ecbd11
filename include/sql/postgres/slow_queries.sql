-- Purpose:  statements by mean time, since the statistics were last reset. The checks go by what changed between two looks
--           instead (statement_counters): a mean over months hides what is slow today.
-- Source:   the operations guide, "Check slow queries". Corrected: total_exec_time and mean_exec_time, the names since
--           PostgreSQL 13; below 100 calls a mean says nothing, so these come last.
-- Rights:   pg_monitor; extension pg_stat_statements in the database that is asked.
-- Versions: 14 to 16 (pg_stat_statements 1.8 to 1.10).
select s.queryid,
       d.datname as database,
       r.rolname as role,
       s.calls,
       round(s.total_exec_time::numeric, 1)::float8 as total_ms,
       round(s.mean_exec_time::numeric, 2)::float8 as mean_ms,
       round(s.max_exec_time::numeric, 1)::float8 as max_ms,
       s.rows,
       round((s.blk_read_time + s.blk_write_time)::numeric, 1)::float8 as io_ms,
       round(100.0 * s.shared_blks_hit / nullif(s.shared_blks_hit + s.shared_blks_read, 0), 2)::float8 as hit_percent,
       left(s.query, 500) as query
  from pg_stat_statements s
  left join pg_database d on d.oid = s.dbid
  left join pg_roles r on r.oid = s.userid
 order by s.calls < 100, s.mean_exec_time desc
 limit 20;
