-- Purpose: rows of a table per day, to compare a restored cluster with its source.
-- Source:  own. The range stands on the sort key's column itself: DATE(column) >= ... would read the whole table.
-- Rights:  SELECT on the table. {table} and {column} are quoted; values: first day, day after the last.
-- Works:   provisioned and serverless.
SELECT cast({column} AS date) AS day, count(*) AS rows
FROM {table}
WHERE {column} >= %s AND {column} < %s
GROUP BY 1
ORDER BY 1
