-- Purpose:  indexes that were used at most 50 times since the statistics were reset, the largest first. Look at every
--           replica before one is dropped: its scans are counted there. `since` says how much the count is worth.
-- Source:   pg_stat_user_indexes. Not unique, primary or exclusion ones (they hold a rule), nor those of a constraint.
-- Rights:   CONNECT.
-- Versions: 14 and 15.
select s.schemaname as schema,
       s.relname as "table",
       s.indexrelname as index,
       pg_relation_size(s.indexrelid) as bytes,
       s.idx_scan as scans,
       null::timestamptz as last_scan,
       d.stats_reset as since
  from pg_stat_user_indexes s
  join pg_index i on i.indexrelid = s.indexrelid
  left join pg_stat_database d on d.datname = current_database()
 where s.idx_scan <= 50 and not i.indisunique and not i.indisprimary and not i.indisexclusion and i.indisvalid
   and not i.indisreplident and not i.indisclustered
   and not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.contype in ('p', 'u', 'x'))
   and pg_relation_size(s.indexrelid) >= 65536
 order by bytes desc
 limit 50;
