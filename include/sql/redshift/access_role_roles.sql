-- Purpose: which role has which other role.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_ROLE_GRANTS.html
-- Rights:  role sys:monitor (ACCESS SYSTEM TABLE), else only one's own are shown.
-- Works:   provisioned and serverless.
SELECT role_name, granted_role_name
FROM svv_role_grants
ORDER BY 1, 2
