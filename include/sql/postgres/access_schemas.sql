-- Purpose:  who may use schemas or create in them, without being their owner. `role` is null for PUBLIC.
-- Source:   aclexplode of pg_namespace.nspacl.
-- Rights:   CONNECT.
-- Versions: 14 to 18 (before 15 PUBLIC may create in schema public of every new database).
select g.rolname as role, n.nspname as schema, lower(a.privilege_type) as privilege, a.is_grantable as passes_on
  from pg_namespace n
 cross join lateral aclexplode(n.nspacl) as a
  left join pg_roles g on g.oid = a.grantee
 where a.grantee <> n.nspowner and n.nspname <> 'information_schema' and n.nspname not like 'pg\_%'
 order by 1 nulls first, 2, 3;
