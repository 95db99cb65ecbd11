-- Purpose:  size of each database; the report compares with earlier days.
-- Source:   pg_database_size.
-- Rights:   pg_monitor (pg_read_all_stats), or CONNECT on each database; -1 stands for one that may not be seen.
-- Versions: 14 to 18.
select d.datname as database,
       case when pg_has_role(current_user, 'pg_read_all_stats', 'usage') or has_database_privilege(d.oid, 'connect')
            then pg_database_size(d.oid) else -1 end as bytes
  from pg_database d
 where d.datallowconn and not d.datistemplate
 order by bytes desc;
