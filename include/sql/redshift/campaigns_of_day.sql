-- Purpose: the campaigns that a day's events name, and how many events of each; NULL: they name none.
-- Source:  the guide's "Cross-system consistency checks"; a range of the sort key. Names are quoted; values: the day, and
--          the day after it.
-- Rights:  SELECT on the table.
-- Works:   provisioned and serverless.
select {campaign}, count(*)
from {table}
where {time} >= %s and {time} < %s
group by 1
