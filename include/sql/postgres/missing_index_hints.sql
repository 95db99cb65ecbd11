-- Purpose:  tables that are read as a whole although they are large: a hint at a missing index, no proof.
-- Source:   seq_scan against idx_scan of pg_stat_user_tables; below 95 % of scans by index, at least 10 000 rows.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select schemaname as schema,
       relname as "table",
       n_live_tup as live_rows,
       seq_scan as whole_scans,
       seq_tup_read as rows_read_by_them,
       coalesce(idx_scan, 0) as index_scans,
       round(100.0 * coalesce(idx_scan, 0) / nullif(seq_scan + coalesce(idx_scan, 0), 0), 1)::float8 as index_percent
  from pg_stat_user_tables
 where n_live_tup >= 10000 and seq_scan > 0
   and 100.0 * coalesce(idx_scan, 0) < 95 * (seq_scan + coalesce(idx_scan, 0))
 order by seq_tup_read desc
 limit 30;
