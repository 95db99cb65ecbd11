-- Purpose: rows of a table in an hour, and figures of its columns, in one read of that range of the sort key.
-- Source:  own.
-- Rights:  SELECT on the table. {figures} are etl_figure_*.sql, {table} and {column} are quoted; values: those of the
--          figures, first moment, first moment after.
-- Works:   provisioned and serverless.
SELECT count(*){figures}
FROM {table}
WHERE {column} >= %s AND {column} < %s
