-- Purpose: a day's own table takes its name again.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_ALTER_TABLE.html
-- Rights:  owner of the table.
-- Works:   provisioned and serverless.
alter table {side} rename to {name}
