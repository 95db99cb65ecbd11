-- Purpose:  estimate of the room in b-tree indexes that no entry needs. `doubt` says why a line is not to be trusted.
-- Source:   own estimate from pg_stats: bytes of an entry = 4 (line pointer) + 8 (header) + sum of widths, aligned; a page
--           has 24 bytes of header and 16 of links; 1 page in 200 is above the leaves. Entries of equal keys share their
--           key since PostgreSQL 13, so that waste is at least this, for an index with many equal keys more. Exact:
--           index_bloat_exact.sql.
-- Rights:   SELECT on the tables, else their statistics are not visible (and `doubt` says so).
-- Versions: 14 to 18.
with btrees as (
    select i.indexrelid, i.indrelid, i.indnkeyatts, i.indisunique, n.nspname, t.relname as tablename, c.relname,
           c.reltuples::float8 as tuples, pg_relation_size(c.oid) as bytes, i.indkey,
           current_setting('block_size')::int as page,
           coalesce(substring(array_to_string(c.reloptions, ' ') from 'fillfactor=([0-9]+)')::int, 90) as fillfactor
      from pg_index i
      join pg_class c on c.oid = i.indexrelid
      join pg_class t on t.oid = i.indrelid
      join pg_namespace n on n.oid = c.relnamespace
      join pg_am am on am.oid = c.relam and am.amname = 'btree'
     where c.relkind = 'i' and i.indisvalid
       and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\_%'
), parts as (
    select b.indexrelid, count(*) as columns, count(s.attname) as known,
           sum((1 - s.null_frac) * s.avg_width) as width
      from btrees b
     cross join lateral unnest(b.indkey) with ordinality as k(attnum, place)
      left join pg_attribute a
        on a.attrelid = case when k.attnum = 0 then b.indexrelid else b.indrelid end
       and a.attnum = case when k.attnum = 0 then k.place else k.attnum end
      left join pg_stats s
        on s.schemaname = b.nspname and s.attname = a.attname and not s.inherited
       and s.tablename = case when k.attnum = 0 then b.relname else b.tablename end
     group by 1
), needed as (
    select b.*, p.columns, p.known,
           page * (1 + 1.005 * ceil(greatest(tuples, 0) / greatest(1, floor(
               (page - 40) * fillfactor / 100.0 / (12 + 8 * ceil(coalesce(p.width, 0) / 8.0)))))) as needs
      from btrees b
      join parts p on p.indexrelid = b.indexrelid
)
select nspname as schema,
       tablename as "table",
       relname as index,
       bytes,
       greatest(0, bytes - needs)::bigint as waste_bytes,
       round((100 * greatest(0, bytes - needs) / nullif(bytes, 0))::numeric, 1)::float8 as waste_percent,
       nullif(concat_ws(', ',
           case when tuples < 0 then 'never analyzed' end,
           case when tuples >= 0 and known < columns then 'no statistics visible (SELECT missing, or never analyzed)' end,
           case when bytes < 15 * page then 'too small' end), '') as doubt
  from needed
 order by greatest(0, bytes - needs) desc, bytes desc
 limit 50;
