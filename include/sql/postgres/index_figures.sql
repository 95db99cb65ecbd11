-- Purpose:  one index as it is now: for the ledger, before and after REINDEX.
-- Source:   pg_index. No row: there is no such index.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select pg_relation_size(c.oid) as bytes, i.indisvalid as valid, c.relfilenode::bigint as file
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_index i on i.indexrelid = c.oid
 where n.nspname = %s and c.relname = %s;
