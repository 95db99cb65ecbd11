-- Purpose:  what the daily maintenance decides by, of every table that it may work on.
-- Source:   pg_class, pg_stat_all_tables. Bytes are as of the last VACUUM or ANALYZE: pg_table_size would wait for every
--           table that somebody holds an exclusive lock on.
-- Rights:   CONNECT.
-- Versions: 17 and 18 (the privilege MAINTAIN, and the role pg_maintain which has it everywhere).
select c.oid::bigint as oid,
       n.nspname as schema,
       c.relname as name,
       c.relpages::bigint * current_setting('block_size')::int as bytes,
       c.reltuples::float8 as tuples,
       coalesce(t.n_live_tup, 0) as live,
       coalesce(t.n_dead_tup, 0) as dead,
       coalesce(t.n_mod_since_analyze, 0) as changed,
       greatest(t.last_vacuum, t.last_autovacuum) as vacuumed_at,
       greatest(t.last_analyze, t.last_autoanalyze) as analyzed_at,
       coalesce(t.vacuum_count, 0) + coalesce(t.autovacuum_count, 0) as vacuums,
       coalesce(t.analyze_count, 0) + coalesce(t.autoanalyze_count, 0) as analyzes,
       case when c.relfrozenxid <> '0' then greatest(age(c.relfrozenxid), age(toast.relfrozenxid)) else 0 end as xid_age,
       case when c.relminmxid <> '0' then greatest(mxid_age(c.relminmxid), mxid_age(toast.relminmxid)) else 0 end
           as multixact_age,
       has_table_privilege(c.oid, 'maintain')
         or (select pg_has_role(current_user, datdba, 'usage') from pg_database where datname = current_database()) as may_maintain
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_class toast on toast.oid = c.reltoastrelid
  left join pg_stat_all_tables t on t.relid = c.oid
 where c.relkind in ('r', 'm') and c.relpersistence <> 't'
   and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\_%'
   and not exists (select from pg_depend d
                    where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype = 'e')
 order by n.nspname, c.relname;
