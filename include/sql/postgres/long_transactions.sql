-- Purpose:  transactions by age: idle ones hold locks and keep VACUUM from removing rows, whatever their table.
-- Source:   pg_stat_activity, pg_prepared_xacts (a forgotten prepared transaction does the same, without a session).
-- Rights:   pg_monitor; without it the state of others is not known.
-- Versions: 14 to 18.
select a.pid,
       a.datname as database,
       a.usename as role,
       a.application_name as application,
       a.state,
       extract(epoch from now() - a.xact_start)::float8 as transaction_s,
       extract(epoch from now() - a.state_change)::float8 as in_state_s,
       greatest(age(a.backend_xmin), age(a.backend_xid)) as holds_back_xids,
       left(a.query, 500) as query
  from pg_stat_activity a
 where a.backend_type = 'client backend' and a.pid <> pg_backend_pid() and a.xact_start is not null
union all
select null, p.database, p.owner, 'prepared transaction ' || p.gid, 'prepared',
       extract(epoch from now() - p.prepared)::float8, extract(epoch from now() - p.prepared)::float8,
       age(p.transaction), ''
  from pg_prepared_xacts p
 order by transaction_s desc
 limit 50;
