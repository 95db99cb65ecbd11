-- Purpose: statistics that know of the deleted days.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_ANALYZE.html
-- Rights:  owner of the table or of the database, superuser.
-- Works:   provisioned and serverless.
analyze {table}
