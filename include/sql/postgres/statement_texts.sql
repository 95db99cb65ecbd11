-- Purpose:  what some statements are.
-- Source:   pg_stat_statements.
-- Rights:   pg_monitor; extension pg_stat_statements in the database that is asked.
-- Versions: 14 to 18.
select s.dbid || '/' || s.userid || '/' || s.queryid as statement,
       d.datname as database,
       r.rolname as role,
       left(s.query, 300) as query
  from pg_stat_statements s
  left join pg_database d on d.oid = s.dbid
  left join pg_roles r on r.oid = s.userid
 where s.dbid || '/' || s.userid || '/' || s.queryid = any(%s);
