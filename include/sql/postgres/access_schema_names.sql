-- Purpose:  schemas of this database.
-- Source:   pg_namespace.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select nspname as schema from pg_namespace where nspname <> 'information_schema' and nspname not like 'pg\_%' order by 1;
