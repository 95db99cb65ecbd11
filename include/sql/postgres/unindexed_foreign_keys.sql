-- Purpose:  foreign keys without an index on the referencing columns: each delete or key change of the referenced row
--           reads the whole referencing table, holding a lock.
-- Source:   pg_constraint against pg_index.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select n.nspname as schema,
       t.relname as "table",
       c.conname as constraint,
       (select string_agg(a.attname, ', ' order by k.place) from unnest(c.conkey) with ordinality as k(attnum, place)
          join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum) as columns,
       c.confrelid::regclass::text as referenced,
       t.reltuples::bigint as estimated_rows
  from pg_constraint c
  join pg_class t on t.oid = c.conrelid
  join pg_namespace n on n.oid = t.relnamespace
 where c.contype = 'f' and c.conparentid = 0
   and not exists (select from pg_index i
                    where i.indrelid = c.conrelid and i.indisvalid and i.indpred is null
                      and (string_to_array(i.indkey::text, ' ')::int2[])[1:cardinality(c.conkey)] @> c.conkey)
 order by t.reltuples desc
 limit 30;
