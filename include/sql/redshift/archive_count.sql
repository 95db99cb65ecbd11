-- Purpose: rows of a day, in the transaction that unloads them.
-- Source:  a range of the sort key.
-- Rights:  SELECT on the table.
-- Works:   provisioned and serverless.
select count(*) from {table} where {range}
