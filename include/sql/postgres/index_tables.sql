-- Purpose:  the table of each index that REINDEX CONCURRENTLY can rebuild: no exclusion constraint, no system table.
-- Source:   pg_index.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select n.nspname as schema, c.relname as index, t.relname as "table", t.oid::bigint as table_oid
  from pg_index i
  join pg_class c on c.oid = i.indexrelid and c.relkind = 'i'
  join pg_class t on t.oid = i.indrelid and t.relkind in ('r', 'm') and t.relpersistence <> 't'
  join pg_namespace n on n.oid = c.relnamespace
 where not i.indisexclusion and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\_%';
