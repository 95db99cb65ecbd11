-- Purpose:  functions that run with the rights of a superuser (or of one who sees through row security) for everybody.
-- Source:   pg_proc.prosecdef and proacl: EXECUTE is PUBLIC's until it is revoked. Without what belongs to extensions.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select n.nspname as schema, p.proname as function, pg_get_function_identity_arguments(p.oid) as arguments,
       case p.prokind when 'p' then 'PROCEDURE' else 'FUNCTION' end as kind, o.rolname as owner
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  join pg_roles o on o.oid = p.proowner and (o.rolsuper or o.rolbypassrls)
 where p.prosecdef and n.nspname <> 'information_schema' and n.nspname not like 'pg\_%'
   and exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
                where a.grantee = 0 and a.privilege_type = 'EXECUTE')
   and not exists (select from pg_depend d
                    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
 order by 1, 2, 3;
