-- Purpose: which user has which role.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_USER_GRANTS.html
-- Rights:  role sys:monitor (ACCESS SYSTEM TABLE), else only one's own are shown.
-- Works:   provisioned and serverless.
SELECT user_name, role_name, admin_option
FROM svv_user_grants
ORDER BY 1, 2
