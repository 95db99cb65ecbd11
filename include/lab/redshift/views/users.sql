-- Principals and privileges. Only those made through this database, and its owner: PostgreSQL's server has more.
CREATE VIEW rs.principals AS
SELECT r.oid, r.rolname AS name, coalesce(p.kind, 'user') AS kind, r.rolsuper, r.rolcreatedb, r.rolvaliduntil,
       r.rolconnlimit
FROM pg_roles r
LEFT JOIN rs.principal p ON p.id = r.oid
WHERE p.id IS NOT NULL OR r.oid = (SELECT datdba FROM pg_database WHERE datname = current_database());
GRANT SELECT ON rs.principals TO PUBLIC;

CREATE VIEW rs.pg_user AS
SELECT name AS usename, oid::bigint::int AS usesysid, rolcreatedb AS usecreatedb, rolsuper AS usesuper, false
       AS usecatupd,
       '********'::text AS passwd, rolvaliduntil::text AS valuntil, NULL::text AS useconfig
FROM rs.principals WHERE kind = 'user'
UNION ALL
SELECT 'rdsdb', 1, true, true, true, '********', 'infinity', NULL;

CREATE VIEW rs.pg_group AS
SELECT p.name AS groname, p.oid::bigint::int AS grosysid,
       ARRAY(SELECT m.member::bigint::int FROM pg_auth_members m WHERE m.roleid = p.oid) AS grolist
FROM rs.principals p WHERE p.kind = 'group';
GRANT SELECT ON rs.pg_user, rs.pg_group TO PUBLIC;

CREATE VIEW pg_catalog.svv_user_info AS
SELECT usename::text AS user_name, usesysid AS user_id, usecreatedb AS createdb, usesuper AS superuser, usecatupd
       AS catalog_update,
       'UNLIMITED'::text AS connection_limit,
       CASE WHEN usesuper OR EXISTS (SELECT FROM rs.principal p WHERE p.id = usesysid AND p.sees_syslog)
            THEN 'UNRESTRICTED' ELSE 'RESTRICTED' END::text AS syslog_access,
       NULL::timestamp AS last_ddl_timestamp, NULL::text AS session_timeout, NULL::text AS external_user_id
FROM rs.pg_user
WHERE usename = session_user OR (SELECT rolsuper FROM pg_roles WHERE rolname = session_user);

CREATE VIEW pg_catalog.svv_roles AS
SELECT p.oid::bigint::int AS role_id, p.name::text AS role_name,
       pg_get_userbyid((SELECT datdba FROM pg_database WHERE datname = current_database()))::text AS role_owner,
              NULL::text AS external_id
FROM rs.principals p WHERE p.kind = 'role';

CREATE VIEW pg_catalog.svv_user_grants AS
SELECT u.oid::bigint::int AS user_id, u.name::text AS user_name, r.oid::bigint::int AS role_id, r.name::text
       AS role_name,
       bool_or(m.admin_option) AS admin_option
FROM pg_auth_members m
JOIN rs.principals r ON r.oid = m.roleid AND r.kind = 'role'
JOIN rs.principals u ON u.oid = m.member AND u.kind = 'user'
GROUP BY u.oid, u.name, r.oid, r.name;

CREATE VIEW pg_catalog.svv_role_grants AS
SELECT u.oid::bigint::int AS role_id, u.name::text AS role_name, r.oid::bigint::int AS granted_role_id,
       r.name::text AS granted_role_name
FROM pg_auth_members m
JOIN rs.principals r ON r.oid = m.roleid AND r.kind = 'role'
JOIN rs.principals u ON u.oid = m.member AND u.kind = 'role'
GROUP BY 1, 2, 3, 4;

-- Everything granted on relations: PostgreSQL's own, and DROP and ALTER.
CREATE VIEW rs.granted AS
SELECT c.oid AS relid, n.nspname, c.relname, a.grantee, a.privilege_type, a.is_grantable
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL aclexplode(c.relacl) a
WHERE c.relkind IN ('r', 'v') AND n.nspname NOT IN ('rs', 'pg_catalog', 'information_schema', 'pg_toast')
  AND a.grantee <> c.relowner AND a.privilege_type NOT IN ('TRIGGER', 'MAINTAIN')
UNION ALL
SELECT c.oid, n.nspname, c.relname, p.grantee, p.privilege, false
FROM rs.privilege p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace;

CREATE FUNCTION rs.identity_name(id oid) RETURNS text
LANGUAGE sql STABLE AS $$ SELECT CASE WHEN id = 0 THEN 'public' ELSE pg_get_userbyid(id)::text END $$;
CREATE FUNCTION rs.identity_type(id oid) RETURNS text
LANGUAGE sql STABLE AS $$ SELECT CASE WHEN id = 0 THEN 'public' ELSE coalesce((SELECT kind FROM rs.principals
       WHERE oid = id), 'user') END $$;

CREATE VIEW pg_catalog.svv_relation_privileges AS
SELECT g.nspname::text AS namespace_name, g.relname::text AS relation_name, g.privilege_type::text AS privilege_type,
       g.grantee::bigint::int AS identity_id, rs.identity_name(g.grantee) AS identity_name,
              rs.identity_type(g.grantee) AS identity_type,
       bool_or(g.is_grantable) AS admin_option
FROM rs.granted g
WHERE rs.sees_all() OR g.grantee = 0 OR pg_has_role(g.grantee, 'MEMBER') OR has_table_privilege(g.relid,
       'SELECT WITH GRANT OPTION')
GROUP BY g.nspname, g.relname, g.privilege_type, g.grantee;

CREATE VIEW pg_catalog.svv_schema_privileges AS
SELECT n.nspname::text AS namespace_name, a.privilege_type::text AS privilege_type, a.grantee::bigint::int
       AS identity_id,
       rs.identity_name(a.grantee) AS identity_name, rs.identity_type(a.grantee) AS identity_type, a.is_grantable
              AS admin_option
FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
WHERE n.nspname NOT IN ('rs', 'pg_catalog', 'information_schema', 'pg_toast') AND a.grantee <> n.nspowner;

CREATE VIEW pg_catalog.svv_database_privileges AS
SELECT d.datname::text AS database_name, CASE a.privilege_type WHEN 'TEMPORARY' THEN 'TEMP'
       ELSE a.privilege_type END::text AS privilege_type,
       a.grantee::bigint::int AS identity_id, rs.identity_name(a.grantee) AS identity_name,
              rs.identity_type(a.grantee) AS identity_type,
       a.is_grantable AS admin_option
FROM pg_database d CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
WHERE d.datname = current_database() AND a.grantee <> d.datdba AND a.privilege_type <> 'CONNECT';

CREATE VIEW pg_catalog.svv_column_privileges AS
SELECT n.nspname::text AS namespace_name, c.relname::text AS relation_name, a.attname::text AS column_name,
       x.privilege_type::text AS privilege_type,
       x.grantee::bigint::int AS identity_id, rs.identity_name(x.grantee) AS identity_name,
              rs.identity_type(x.grantee) AS identity_type
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL aclexplode(a.attacl) x
WHERE n.nspname NOT IN ('rs', 'pg_catalog', 'information_schema');

CREATE VIEW pg_catalog.svv_system_privileges AS
SELECT s.privilege::text AS system_privilege, s.grantee::bigint::int AS identity_id, rs.identity_name(s.grantee)
       AS identity_name,
       'role'::text AS identity_type
FROM rs.system_privileges s;

CREATE VIEW pg_catalog.svv_default_privileges AS
SELECT n.nspname::text AS schema_name, CASE d.defaclobjtype WHEN 'r' THEN 'RELATION' WHEN 'f'
       THEN 'FUNCTION' END::text AS object_type,
       d.defaclrole::bigint::int AS owner_id, rs.identity_name(d.defaclrole) AS owner_name, 'user'::text
              AS owner_type,
       a.privilege_type::text AS privilege_type, a.grantee::bigint::int AS grantee_id, rs.identity_name(a.grantee)
              AS grantee_name,
       rs.identity_type(a.grantee) AS grantee_type, a.is_grantable AS admin_option
FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace CROSS
       JOIN LATERAL aclexplode(d.defaclacl) a
WHERE a.grantee <> d.defaclrole AND a.privilege_type NOT IN ('TRIGGER', 'MAINTAIN')
UNION ALL
SELECT n.nspname::text, 'RELATION', d.owner::bigint::int, rs.identity_name(d.owner), 'user', d.privilege,
       d.grantee::bigint::int, rs.identity_name(d.grantee), rs.identity_type(d.grantee), false
FROM rs.default_privilege d JOIN pg_roles o ON o.oid = d.owner
LEFT JOIN pg_roles g ON g.oid = d.grantee LEFT JOIN pg_namespace n ON n.oid = d.schema
WHERE (d.grantee = 0 OR g.oid IS NOT NULL) AND (d.schema IS NULL OR n.oid IS NOT NULL);  -- what was dropped since is left out

GRANT SELECT ON pg_catalog.svv_user_info, pg_catalog.svv_roles, pg_catalog.svv_user_grants,
       pg_catalog.svv_role_grants,
    pg_catalog.svv_relation_privileges, pg_catalog.svv_schema_privileges, pg_catalog.svv_database_privileges,
    pg_catalog.svv_column_privileges, pg_catalog.svv_system_privileges, pg_catalog.svv_default_privileges TO PUBLIC;
