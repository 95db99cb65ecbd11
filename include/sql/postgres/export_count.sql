-- Purpose:  rows of one table, where the platform file wants no checksums.
-- Source:   count(*).
-- Rights:   SELECT on the table. {table} is a quoted name.
-- Versions: 14 to 18.
select count(*) as rows, null as sum from only {table} t;
