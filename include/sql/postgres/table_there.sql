-- Purpose:  is there a table of that name (%s: schema, table), whether or not one may look into it?
-- Source:   pg_class.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select exists (select from pg_class c
                 join pg_namespace n on n.oid = c.relnamespace
                where n.nspname = %s and c.relname = %s and c.relkind in ('r', 'p', 'v', 'f'));
