-- Purpose: every role; those of Redshift itself begin with sys: or ds:.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_ROLES.html
-- Rights:  role sys:monitor (ACCESS SYSTEM TABLE), else only one's own are shown.
-- Works:   provisioned and serverless.
SELECT role_name
FROM svv_roles
ORDER BY 1
