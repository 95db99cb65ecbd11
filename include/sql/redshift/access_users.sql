-- Purpose: every user, and until when the password is valid (infinity: for ever).
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_PG_USER_INFO.html. SVV_USER_INFO shows others to superusers only.
--          valuntil is of type abstime, which no driver reads: hence the casts.
-- Rights:  none.
-- Works:   provisioned and serverless.
SELECT usename, usesuper, usecreatedb, cast(cast(valuntil AS timestamp) AS varchar) AS valid_until
FROM pg_user
ORDER BY 1
