-- Purpose: rows of an hour that refer to another table, those of them that refer to nothing, rows of the other table, and
--          rows of the hour whose reference is NULL.
-- Source:  own; the guide's "Cross-system consistency checks".
-- Rights:  SELECT on both tables. Names are quoted; values: first moment of what is referred to, first moment after
--          (twice, for two reads), first moment of the hour, first moment after.
-- Works:   provisioned and serverless.
SELECT count(mine.{reference}),
       coalesce(sum(CASE WHEN mine.{reference} IS NOT NULL AND other.found IS NULL THEN 1 ELSE 0 END), 0),
       (SELECT count(*) FROM {other} WHERE {other_time} >= %s AND {other_time} < %s),
       count(*) - count(mine.{reference})
FROM {table} AS mine
LEFT JOIN (
    SELECT DISTINCT {of} AS found FROM {other} WHERE {other_time} >= %s AND {other_time} < %s AND {of} IS NOT NULL
) AS other ON other.found = mine.{reference}
WHERE mine.{column} >= %s AND mine.{column} < %s
