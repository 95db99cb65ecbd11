-- Purpose: rows of a table in the same hour of past weeks.
-- Source:  own. Each hour is a range of the sort key, so that no block between them is read.
-- Rights:  SELECT on the table. {ranges} are etl_past_hour.sql joined by OR; {table} and {column} are quoted.
-- Works:   provisioned and serverless.
SELECT date_trunc('hour', {column}) AS hour, count(*)
FROM {table}
WHERE {ranges}
GROUP BY 1
