-- Purpose:  what PostgreSQL says was spent on a day, by line item; the key of the record that follows, and whether there
--           should be one.
-- Source:   the guide's "Cross-system consistency checks". {key} and {alive} are those of the pair in the platform file,
--           its names are quoted; value: the day.
-- Rights:   SELECT on the table, by the login of `sync.connection`.
-- Versions: 14 to 18.
select {line_item}::text, sum({amount})::numeric, ({key})::text, bool_or({alive})
from {table}
where {day} = %s::date
group by {line_item}::text, ({key})::text
