-- Purpose:  size of each table, its indexes and its TOAST part.
-- Source:   the operations guide, "Check database size and usage". Corrected: by oid, since schemaname||'.'||tablename
--           fails for names in mixed case; every schema, since a table outside of public fills the disk as well;
--           materialized views too; partitions count for themselves.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select n.nspname as schema,
       c.relname as "table",
       pg_total_relation_size(c.oid) as bytes,
       pg_size_pretty(pg_total_relation_size(c.oid)) as size,
       pg_relation_size(c.oid) as heap_bytes,
       pg_indexes_size(c.oid) as index_bytes,
       case when c.reltoastrelid <> 0 then pg_total_relation_size(c.reltoastrelid) else 0 end as toast_bytes,
       c.reltuples::bigint as estimated_rows
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'm')
   and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\_%'
 order by bytes desc
 limit 200;
