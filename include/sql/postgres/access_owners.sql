-- Purpose:  who owns tables, and so may do everything with them.
-- Source:   pg_class, without what belongs to extensions.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select o.rolname as role, n.nspname as schema, count(*) as many, min(c.relname) as example
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_roles o on o.oid = c.relowner
 where c.relkind in ('r', 'p', 'v', 'm', 'f')
   and n.nspname <> 'information_schema' and n.nspname not like 'pg\_%'
   and not exists (select from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 group by 1, 2
 order by 1, 2;
