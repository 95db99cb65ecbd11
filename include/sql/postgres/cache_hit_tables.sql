-- Purpose:  share of blocks that were found in shared_buffers, by table and its indexes.
-- Source:   pg_statio_user_tables.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select schemaname as schema,
       relname as "table",
       heap_blks_read,
       round(100.0 * heap_blks_hit / nullif(heap_blks_hit + heap_blks_read, 0), 2)::float8 as heap_hit_percent,
       idx_blks_read,
       round(100.0 * idx_blks_hit / nullif(idx_blks_hit + idx_blks_read, 0), 2)::float8 as index_hit_percent
  from pg_statio_user_tables
 where coalesce(heap_blks_read, 0) + coalesce(idx_blks_read, 0) > 0
 order by coalesce(heap_blks_read, 0) + coalesce(idx_blks_read, 0) desc
 limit 30;
