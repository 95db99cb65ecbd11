-- Purpose:  of the rights that roles should have (%s: JSON of role, kind, schema, relation, privilege), those that they have not, be it
--           by a grant, a membership, PUBLIC or ownership.
-- Source:   has_table_privilege and its like. Tables have all privileges, views and the like only SELECT.
-- Rights:   CONNECT.
-- Versions: 14 to 18 (MAINTAIN from 17).
with wanted as (
  select r.oid as role_oid, w.* from jsonb_to_recordset(%s::jsonb) 
           as w(role text, kind text, schema text, relation text, privilege text)
    join pg_roles r on r.rolname = w.role and not r.rolsuper
)
select w.role, w.kind, null as schema, w.privilege, 1 as many, current_database()::text as example
  from wanted w
 where w.kind = 'database' and not has_database_privilege(w.role_oid, current_database(), w.privilege)
union all
select w.role, w.kind, w.schema, w.privilege, 1, w.schema
  from wanted w
  join pg_namespace n on n.nspname = w.schema
 where w.kind = 'schema' and not has_schema_privilege(w.role_oid, n.oid, w.privilege)
union all
select w.role, w.kind, w.schema, w.privilege, count(*), min(c.relname)
  from wanted w
  join pg_namespace n on n.nspname = w.schema
  join pg_class c on c.relnamespace = n.oid and (w.relation is null or c.relname = w.relation)
 where case when w.kind = 'table' and (c.relkind in ('r', 'p') or w.privilege = 'select' and c.relkind in ('v', 'm', 'f'))
            then not has_table_privilege(w.role_oid, c.oid, w.privilege)
            when w.kind = 'sequence' and c.relkind = 'S'
            then not has_sequence_privilege(w.role_oid, c.oid, w.privilege)
            else false end
   and not exists (select from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 group by 1, 2, 3, 4
 order by 1, 2, 3, 4;
