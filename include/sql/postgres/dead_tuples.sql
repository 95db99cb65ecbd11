-- Purpose:  dead rows, and when they were last removed.
-- Source:   the operations guide, "Monitor table bloat". Corrected: this is the share of dead rows, not bloat (see
--           table_bloat.sql); a table of dead rows only is the worst one, and n_live_tup > 0 hid it.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select schemaname as schema,
       relname as "table",
       n_live_tup as live_rows,
       n_dead_tup as dead_rows,
       round(100.0 * n_dead_tup / nullif(n_live_tup + n_dead_tup, 0), 2)::float8 as dead_percent,
       last_vacuum,
       last_autovacuum
  from pg_stat_user_tables
 where n_dead_tup > 0
 order by n_dead_tup desc
 limit 50;
