-- Purpose:  foreign keys: a table can be restored with one only where the rows that it points to are there too.
-- Source:   pg_constraint; the copies that partitions have of one are left out.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select n.nspname as schema, c.relname as name, k.conname as constraint, fn.nspname as to_schema, fc.relname as to_name
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class fc on fc.oid = k.confrelid
  join pg_namespace fn on fn.oid = fc.relnamespace
 where k.contype = 'f'
 order by 1, 2, 3;
