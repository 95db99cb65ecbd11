-- Purpose:  rights on what roles will make: tables and sequences of tomorrow. `role` is null for PUBLIC.
-- Source:   pg_default_acl.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select g.rolname as role, n.nspname as schema, case p.defaclobjtype when 'S' then 'sequence' else 'table' end as kind,
       lower(a.privilege_type) as privilege, o.rolname as maker
  from pg_default_acl p
  join pg_roles o on o.oid = p.defaclrole
  left join pg_namespace n on n.oid = p.defaclnamespace
 cross join lateral aclexplode(p.defaclacl) as a
  left join pg_roles g on g.oid = a.grantee
 where p.defaclobjtype in ('r', 'S') and a.grantee <> p.defaclrole
 order by 1 nulls first, 2, 3, 4;
