-- Purpose:  estimate of the room in tables that no row needs. `doubt` says why a line is not to be trusted.
-- Source:   own estimate from pg_stats: bytes of a row = 4 (line pointer) + header of 23 with its bitmap of nulls, aligned,
--           + sum of (1 - null_frac) * avg_width, aligned; a page has 24 bytes of header. Padding between columns is not
--           counted, so up to about 10 % is no bloat. Exact, and slower: table_bloat_exact.sql.
-- Rights:   SELECT on the tables, else their statistics are not visible (and `doubt` says so).
-- Versions: 14 to 18.
with seen as (
    select s.schemaname, s.tablename, count(*) as columns,
           sum((1 - s.null_frac) * s.avg_width) as width,
           bool_or(s.null_frac > 0) as nulls
      from pg_stats s
     where not s.inherited
       and s.schemaname not in ('pg_catalog', 'information_schema') and s.schemaname not like 'pg\_%'
     group by 1, 2
), figures as (
    select c.oid, n.nspname, c.relname, c.reltuples::float8 as tuples,
           pg_relation_size(c.oid) as bytes,
           current_setting('block_size')::int as page,
           coalesce(substring(array_to_string(c.reloptions, ' ') from 'fillfactor=([0-9]+)')::int, 100) as fillfactor,
           (select count(*) from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
           coalesce(seen.columns, 0) as known,
           coalesce(seen.width, 0) as width,
           coalesce(seen.nulls, false) as nulls,
           coalesce(t.n_mod_since_analyze, 0) as changed
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      left join seen on seen.schemaname = n.nspname and seen.tablename = c.relname
      left join pg_stat_all_tables t on t.relid = c.oid
     where c.relkind in ('r', 'm') and n.nspname not in ('pg_catalog', 'information_schema')
       and n.nspname not like 'pg\_%'
), rows as (
    select *, 4 + 8 * ceil((23 + case when nulls then ceil(columns / 8.0) else 0 end) / 8.0)
                + 8 * ceil(width / 8.0) as row_bytes
      from figures
), needed as (
    select *, page * ceil(greatest(tuples, 0) / greatest(1, floor((page - 24) * fillfactor / 100.0 / row_bytes))) as needs
      from rows
)
select nspname as schema,
       relname as "table",
       bytes,
       greatest(0, bytes - needs)::bigint as waste_bytes,
       round((100 * greatest(0, bytes - needs) / nullif(bytes, 0))::numeric, 1)::float8 as waste_percent,
       nullif(concat_ws(', ',
           case when tuples < 0 then 'never analyzed' end,
           case when tuples >= 0 and known < columns then
               case when known = 0 then 'no statistics visible (SELECT missing, or empty when analyzed)'
                    else 'statistics of some columns are not visible' end end,
           case when changed > greatest(1000, 0.1 * tuples) then 'much has changed since it was analyzed' end,
           case when bytes < 10 * page then 'too small' end), '') as doubt
  from needed
 where bytes > 0
 order by greatest(0, bytes - needs) desc, bytes desc
 limit 50;
