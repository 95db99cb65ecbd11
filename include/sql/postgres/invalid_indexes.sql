-- Purpose:  indexes that no query may use, most often what an interrupted CONCURRENTLY left: they cost every write. One
--           that is being built now is `building`, and no problem.
-- Source:   pg_index.indisvalid, pg_stat_progress_create_index.
-- Rights:   pg_monitor, else an index that is being built by another role cannot be told from a broken one.
-- Versions: 14 to 18.
select n.nspname as schema,
       t.relname as "table",
       c.relname as index,
       pg_relation_size(c.oid) as bytes,
       c.relname ~ '_cc(new|old)[0-9]*$' as leftover,
       exists (select from pg_stat_progress_create_index p
                where p.datname = current_database()
                  and (p.relid is null or p.relid in (0, i.indrelid) or p.index_relid = i.indexrelid)) as building
  from pg_index i
  join pg_class c on c.oid = i.indexrelid and c.relkind = 'i'
  join pg_class t on t.oid = i.indrelid
  join pg_namespace n on n.oid = c.relnamespace
 where not i.indisvalid and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\_%'
 order by bytes desc
 limit 50;
