-- Purpose:  every table whose rows pg_dump would store, whether the role may read it, and what it belongs to: a partition or
--           child is there once for each table above it, any of which the platform file may name, and once for itself.
-- Source:   pg_class; as pg_dump chooses (getTables): ordinary tables outside of the system's schemas and of extensions.
--           Partitioned tables hold no rows themselves, and are named so that one without partitions is known to be there.
-- Rights:   CONNECT. has_table_privilege says what the role may.
-- Versions: 14 to 18.
with recursive up as (
  select c.oid, c.oid as top
    from pg_class c
   where c.relkind in ('r', 'p')
  union
  select i.inhrelid, up.top from up join pg_inherits i on i.inhparent = up.oid
)
select distinct n.nspname as schema, c.relname as name, c.relkind = 'p' as partitioned, tn.nspname as top_schema,
       tc.relname as top_name,
       has_table_privilege(c.oid, 'SELECT') and has_schema_privilege(n.oid, 'USAGE') as readable
  from up
  join pg_class c on c.oid = up.oid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class tc on tc.oid = up.top
  join pg_namespace tn on tn.oid = tc.relnamespace
 where c.relkind in ('r', 'p')
   and c.relpersistence <> 't'
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and not exists (select from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.objsubid = 0 and d.deptype = 'e')
 order by 1, 2, 4, 5;
