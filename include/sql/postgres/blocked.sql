-- Purpose:  who waits for a lock, since when, and who holds it.
-- Source:   pg_blocking_pids, which knows of soft blocks (the queue) as well; joining pg_locks with itself does not.
-- Rights:   pg_monitor for the texts of others.
-- Versions: 14 to 18 (pg_locks.waitstart).
select a.pid,
       a.datname as database,
       a.usename as role,
       a.application_name as application,
       coalesce((select format('%I.%I', n.nspname, c.relname)
                   from pg_locks l
                   join pg_class c on c.oid = l.relation
                   join pg_namespace n on n.oid = c.relnamespace
                  where l.pid = a.pid and not l.granted and l.database = (select oid from pg_database
                                                                          where datname = current_database())
                  limit 1), (select l.locktype from pg_locks l where l.pid = a.pid and not l.granted limit 1)) as waits_for,
       extract(epoch from now() - coalesce((select min(l.waitstart) from pg_locks l where l.pid = a.pid and not l.granted),
                                           a.query_start))::float8 as waits_s,
       left(a.query, 300) as query,
       b.pid as blocker,
       b.usename as blocker_role,
       b.application_name as blocker_application,
       b.state as blocker_state,
       extract(epoch from now() - b.xact_start)::float8 as blocker_transaction_s,
       left(b.query, 300) as blocker_query
  from pg_stat_activity a
 cross join lateral unnest(pg_blocking_pids(a.pid)) as held(pid)
  left join pg_stat_activity b on b.pid = held.pid
 where a.wait_event_type = 'Lock'
 order by waits_s desc, a.pid
 limit 50;
