-- Purpose: whether the table of marks is there, so that a look at a plan makes nothing.
-- Source:  PG_CLASS (leader node).
-- Rights:  none.
-- Works:   provisioned and serverless.
select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and c.relname = %s
