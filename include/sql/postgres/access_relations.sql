-- Purpose:  who may do what with tables, columns and sequences, without being their owner. `role` is null for PUBLIC.
-- Source:   aclexplode of pg_class.relacl and pg_attribute.attacl, without what belongs to extensions.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select g.rolname as role, x.schema, x.kind, lower(x.privilege) as privilege, bool_or(x.passes_on) as passes_on,
       count(*) as many, min(x.relation) as example, min(x.name) as "column",
       array_agg(x.relation::text order by x.relation) as relations
  from (select a.grantee, n.nspname as schema, case c.relkind when 'S' then 'sequence' else 'table' end as kind,
               a.privilege_type as privilege, a.is_grantable as passes_on, c.oid, c.relname as relation, null as name
          from pg_class c
          join pg_namespace n on n.oid = c.relnamespace
         cross join lateral aclexplode(c.relacl) as a
         where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and a.grantee <> c.relowner
         union all
        select a.grantee, n.nspname, 'column', a.privilege_type, a.is_grantable, c.oid, c.relname, t.attname
          from pg_attribute t
          join pg_class c on c.oid = t.attrelid
          join pg_namespace n on n.oid = c.relnamespace
         cross join lateral aclexplode(t.attacl) as a
         where a.grantee <> c.relowner) as x
  left join pg_roles g on g.oid = x.grantee
 where x.schema <> 'information_schema' and x.schema not like 'pg\_%'
   and not exists (select from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = x.oid and d.deptype = 'e')
 group by g.rolname, x.schema, x.kind, x.privilege
 order by 1 nulls first, 2, 3, 4;
