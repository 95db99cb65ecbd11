-- Purpose:  what every client does now.
-- Source:   the operations guide, "Monitor active connections". Corrected: without the asking session; idle in
--           transaction and waiting sessions too, which state = 'active' hides and which do the most harm; clients only.
-- Rights:   pg_monitor; without it the texts of others read <insufficient privilege>.
-- Versions: 14 to 18.
select a.pid,
       a.datname as database,
       a.usename as role,
       a.application_name as application,
       a.client_addr::text as client,
       a.state,
       a.wait_event_type || '/' || a.wait_event as waits_for,
       extract(epoch from now() - a.xact_start)::float8 as transaction_s,
       extract(epoch from now() - a.query_start)::float8 as query_s,
       cardinality(pg_blocking_pids(a.pid)) as blocked_by,
       left(a.query, 500) as query
  from pg_stat_activity a
 where a.backend_type = 'client backend' and a.pid <> pg_backend_pid()
   and (a.state <> 'idle' or a.state is null)
 order by a.xact_start nulls last
 limit 100;
