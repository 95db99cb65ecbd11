-- Purpose:  statements by mean time, since the statistics were last reset (see slow_queries.sql).
-- Source:   the operations guide, "Check slow queries", corrected as in slow_queries.sql. blk_read_time became
--           shared_blk_read_time, beside local_ and temp_.
-- Rights:   pg_monitor; extension pg_stat_statements in the database that is asked.
-- Versions: 17 and 18 (pg_stat_statements 1.11 and later).
select s.queryid,
       d.datname as database,
       r.rolname as role,
       s.calls,
       round(s.total_exec_time::numeric, 1)::float8 as total_ms,
       round(s.mean_exec_time::numeric, 2)::float8 as mean_ms,
       round(s.max_exec_time::numeric, 1)::float8 as max_ms,
       s.rows,
       round((s.shared_blk_read_time + s.shared_blk_write_time + s.local_blk_read_time + s.local_blk_write_time
              + s.temp_blk_read_time + s.temp_blk_write_time)::numeric, 1)::float8 as io_ms,
       round(100.0 * s.shared_blks_hit / nullif(s.shared_blks_hit + s.shared_blks_read, 0), 2)::float8 as hit_percent,
       left(s.query, 500) as query
  from pg_stat_statements s
  left join pg_database d on d.oid = s.dbid
  left join pg_roles r on r.oid = s.userid
 order by s.calls < 100, s.mean_exec_time desc
 limit 20;
