-- Purpose: whether this login sees the rights of others at all: without that, a review would find nothing wrong.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_USER_INFO.html (everybody sees their own row)
-- Rights:  none.
-- Works:   provisioned and serverless.
SELECT user_name, superuser, syslog_access
FROM svv_user_info
WHERE user_name = current_user
