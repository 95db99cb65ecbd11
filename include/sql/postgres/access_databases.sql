-- Purpose:  who may do what with this database, without being its owner. `role` is null for PUBLIC.
-- Source:   aclexplode of pg_database.datacl; without one, PUBLIC may connect and make temporary tables.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select g.rolname as role, lower(a.privilege_type) as privilege, a.is_grantable as passes_on
  from pg_database d
 cross join lateral aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) as a
  left join pg_roles g on g.oid = a.grantee
 where d.datname = current_database() and a.grantee <> d.datdba
 order by 1 nulls first, 2;
