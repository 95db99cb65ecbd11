-- Purpose: what was granted on tables and views, one row per grantee, schema and privilege. What owners may is no grant.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_RELATION_PRIVILEGES.html
-- Rights:  SYSLOG ACCESS UNRESTRICTED and role sys:monitor, else only one's own are shown.
-- Works:   provisioned and serverless.
SELECT p.identity_type, p.identity_name, p.namespace_name, lower(p.privilege_type) AS privilege,
       max(CASE WHEN p.admin_option THEN 1 ELSE 0 END) AS may_grant, count(*) AS relations, min(p.relation_name) AS example
FROM svv_relation_privileges p
LEFT JOIN pg_tables t
    ON t.schemaname = p.namespace_name AND t.tablename = p.relation_name AND t.tableowner = p.identity_name
WHERE t.tablename IS NULL AND p.namespace_name <> 'information_schema' AND left(p.namespace_name, 3) <> 'pg_'
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4
