-- Purpose: what UNLOAD writes.
-- Source:  a range of the sort key.
-- Rights:  SELECT on the table.
-- Works:   provisioned and serverless.
select * from {table} where {range}
