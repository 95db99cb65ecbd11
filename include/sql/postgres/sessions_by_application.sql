-- Purpose:  sessions of programs with the instance, by the name that they give themselves.
-- Source:   pg_stat_activity.
-- Rights:   pg_monitor, to see the kind of others' processes.
-- Versions: 14 to 18.
select application_name, count(*) as sessions
  from pg_stat_activity
 where backend_type = 'client backend'
   and pid <> pg_backend_pid()
   and application_name not in ('', 'dbops')
 group by application_name;
