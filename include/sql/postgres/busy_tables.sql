-- Purpose:  who works on a table in a way that VACUUM, ANALYZE and REINDEX CONCURRENTLY must not meet: autovacuum, another
--           of these, CREATE INDEX CONCURRENTLY, ALTER TABLE. All take a lock of this mode or a stronger one.
-- Source:   pg_locks, which everybody may read; pg_stat_activity for what it is.
-- Rights:   CONNECT; pg_monitor for the kind of process.
-- Versions: 14 to 18.
select l.relation::bigint as oid,
       l.pid,
       l.mode,
       coalesce(a.backend_type, 'unknown') as backend_type,
       coalesce(a.application_name, '') as application,
       left(a.query, 100) as query
  from pg_locks l
  left join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.granted and l.pid is not null and l.pid <> pg_backend_pid()
   and l.database = (select oid from pg_database where datname = current_database())
   and l.mode in ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock');
