-- Purpose:  share of blocks that were found in shared_buffers, by database, since the statistics were last reset. The
--           operating system's cache is not seen: a low share need not mean reads from disk.
-- Source:   pg_stat_database.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select datname as database,
       blks_hit,
       blks_read,
       round(100.0 * blks_hit / nullif(blks_hit + blks_read, 0), 2)::float8 as hit_percent,
       deadlocks,
       temp_bytes,
       xact_commit as commits,
       xact_rollback as rollbacks,
       stats_reset
  from pg_stat_database
 where datname is not null and datname not in ('template0', 'template1')
 order by blks_read desc;
