-- Purpose: what roles may on the whole database; Redshift's own roles are left out.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_SYSTEM_PRIVILEGES.html
-- Rights:  role sys:monitor (ACCESS SYSTEM TABLE), else only one's own are shown.
-- Works:   provisioned and serverless.
SELECT identity_type, identity_name, lower(system_privilege) AS privilege
FROM svv_system_privileges
WHERE left(identity_name, 4) <> 'sys:' AND left(identity_name, 3) <> 'ds:'
ORDER BY 1, 2, 3
