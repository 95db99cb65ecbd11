-- Purpose:  whose connections they are.
-- Source:   pg_stat_activity.
-- Rights:   pg_monitor for the states.
-- Versions: 14 to 18.
select datname as database,
       usename as role,
       application_name as application,
       coalesce(state, 'unknown') as state,
       count(*) as connections,
       max(extract(epoch from now() - state_change))::float8 as longest_s
  from pg_stat_activity
 where backend_type = 'client backend'
 group by 1, 2, 3, 4
 order by connections desc
 limit 50;
