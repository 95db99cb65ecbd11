-- Purpose: the newest row of a table, looked for in its last days only.
-- Source:  own. A range on the sort key reads little; a maximum without one would read the table.
-- Rights:  SELECT on the table. {table} and {column} are quoted; values: from when on, and the clock (rows of the future
--          say nothing about freshness).
-- Works:   provisioned and serverless.
SELECT max({column})
FROM {table}
WHERE {column} >= %s AND {column} <= %s
