-- Purpose: which days a table has rows of, and how many: one statement for all days of a table.
-- Source:  a range of the sort key, so that only old blocks are read. {day}: the column as a date.
-- Rights:  SELECT on the table.
-- Works:   provisioned and serverless.
select {day} as day, count(*) from {table} where {range} group by 1 order by 1
