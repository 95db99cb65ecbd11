-- Purpose: every group with its members; a group without any has one row.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_Groups.html
-- Rights:  none.
-- Works:   provisioned and serverless.
SELECT g.groname, u.usename
FROM pg_group g
LEFT JOIN pg_user u ON u.usesysid = any(g.grolist)
ORDER BY 1, 2
