-- Rows of a table before a moment, and the oldest. {table} and {column} are quoted identifiers; the column is the sort
-- key, so that only blocks of that time are read.
-- Rights: SELECT on the table. Provisioned and serverless.
select count(*), min({column})
from {table}
where {column} < %s
