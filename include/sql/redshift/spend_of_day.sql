-- Purpose: what the warehouse says was spent on a day, by line item.
-- Source:  the guide's "Cross-system consistency checks"; a range of the sort key. Names are quoted; values: the day, and
--          the day after it.
-- Rights:  SELECT on the table.
-- Works:   provisioned and serverless.
select {line_item}, sum({amount})
from {table}
where {time} >= %s and {time} < %s and {line_item} is not null
group by 1
