-- Purpose: what will be granted on tables that do not exist yet.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_DEFAULT_PRIVILEGES.html
-- Rights:  role sys:monitor (ACCESS SYSTEM TABLE), else only one's own are shown.
-- Works:   provisioned and serverless.
SELECT grantee_type, grantee_name, schema_name, lower(privilege_type) AS privilege, owner_name
FROM svv_default_privileges
WHERE object_type = 'RELATION'
ORDER BY 1, 2, 3, 4
