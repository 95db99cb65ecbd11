-- Purpose:  roles, what they may do on the whole server, and which roles they are members of.
-- Source:   pg_roles, pg_auth_members. Whether a role has a password at all, only superusers see.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select r.rolname as role,
       array_remove(array[case when r.rolsuper then 'superuser' end, case when r.rolcreaterole then 'createrole' end,
                          case when r.rolcreatedb then 'createdb' end, case when r.rolreplication then 'replication' end,
                          case when r.rolbypassrls then 'bypassrls' end], null) as attributes,
       r.rolcanlogin as login,
       case when isfinite(r.rolvaliduntil) then r.rolvaliduntil end as valid_until,
       array(select g.rolname::text from pg_auth_members m join pg_roles g on g.oid = m.roleid
              where m.member = r.oid order by 1) as member_of,
       array(select g.rolname::text from pg_auth_members m join pg_roles g on g.oid = m.roleid
              where m.member = r.oid and m.admin_option order by 1) as gives
  from pg_roles r
 order by r.rolname;
