-- Purpose: the tables that a warehouse has.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_TABLES.html
-- Rights:  none; shown are those that the user may read.
-- Works:   provisioned and serverless.
SELECT table_schema, table_name
FROM svv_tables
WHERE table_type = 'BASE TABLE' AND table_schema <> 'information_schema' AND left(table_schema, 3) <> 'pg_'
ORDER BY 1, 2
