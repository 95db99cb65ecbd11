-- Purpose:  counters of every statement of all databases but our own, to be compared with those of the look before.
-- Source:   pg_stat_statements without texts (showtext => false), which would be read from a file.
-- Rights:   pg_monitor; extension pg_stat_statements in the database that is asked.
-- Versions: 14 to 18 (toplevel exists from 1.9, which PostgreSQL 14 brings).
select dbid || '/' || userid || '/' || queryid as statement,
       sum(calls)::bigint as calls,
       sum(total_exec_time)::float8 as total_ms
  from pg_stat_statements(false)
 where queryid is not null and dbid <> 0
   and userid <> (select oid from pg_roles where rolname = current_user)
 group by 1;
