-- Purpose: who may use a schema, or create tables in it.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_SCHEMA_PRIVILEGES.html
-- Rights:  role sys:monitor (ACCESS SYSTEM TABLE), else only one's own are shown.
-- Works:   provisioned and serverless.
SELECT identity_type, identity_name, namespace_name, lower(privilege_type) AS privilege, admin_option
FROM svv_schema_privileges
WHERE namespace_name <> 'information_schema' AND left(namespace_name, 3) <> 'pg_'
ORDER BY 1, 2, 3, 4
