-- Purpose:  tables whose planner statistics are missing or old.
-- Source:   n_mod_since_analyze of pg_stat_user_tables; a tenth of the rows is autovacuum's own default.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select t.schemaname as schema,
       t.relname as "table",
       t.n_live_tup as live_rows,
       t.n_mod_since_analyze as changed_rows,
       round(100.0 * t.n_mod_since_analyze / greatest(t.n_live_tup, 1), 1)::float8 as changed_percent,
       greatest(t.last_analyze, t.last_autoanalyze) as analyzed_at
  from pg_stat_user_tables t
 where (t.n_mod_since_analyze >= 1000 and t.n_mod_since_analyze > 0.1 * t.n_live_tup)
    or (greatest(t.last_analyze, t.last_autoanalyze) is null and t.n_live_tup > 0)
 order by t.n_mod_since_analyze desc
 limit 50;
