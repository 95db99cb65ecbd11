-- Purpose: the tables of a schema whose names begin alike: one for each day.
-- Source:  PG_CLASS (leader node).
-- Rights:  USAGE on the schema.
-- Works:   provisioned and serverless.
select c.relname
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and n.nspname = %s and left(c.relname, %s) = %s
order by c.relname
