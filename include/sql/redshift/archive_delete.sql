-- Purpose: delete a day, in the transaction that has compared it with its archive.
-- Source:  a range of the sort key.
-- Rights:  DELETE on the table.
-- Works:   provisioned and serverless.
delete from {table} where {range}
