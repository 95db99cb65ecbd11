-- Purpose:  how much every index is used; the most used first.
-- Source:   the operations guide, "Check index usage". Corrected: relname and indexrelname are the columns' names (there
--           is no tablename). For indexes that nobody uses see unused_indexes.sql: this order shows them last.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select schemaname as schema,
       relname as "table",
       indexrelname as index,
       idx_scan as scans,
       idx_tup_read as entries_read,
       idx_tup_fetch as rows_fetched,
       pg_relation_size(indexrelid) as bytes
  from pg_stat_user_indexes
 order by idx_scan desc
 limit 100;
