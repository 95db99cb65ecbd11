-- Purpose: drop a day's own table, in the transaction that has compared it with its archive. Never CASCADE: a view that
--          reads it must be written anew first, or be WITH NO SCHEMA BINDING.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_DROP_TABLE.html
-- Rights:  owner of the table, or superuser.
-- Works:   provisioned and serverless.
drop table {table}
