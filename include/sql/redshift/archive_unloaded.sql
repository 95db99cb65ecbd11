-- Purpose: how many rows the UNLOAD before it wrote.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/PG_LAST_UNLOAD_COUNT.html: of this session, at once, where
--          SYS_UNLOAD_HISTORY comes later.
-- Rights:  none.
-- Works:   provisioned and serverless.
select pg_last_unload_count()
