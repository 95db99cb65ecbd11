-- Columns that say which day a row belongs to.
-- Source: PostgreSQL's catalogs, which Redshift has (PG_TABLE_DEF shows only schemas of the search path).
-- Rights: none. Provisioned and serverless.
select a.attrelid, trim(a.attname), format_type(a.atttypid, a.atttypmod)
from pg_attribute a
join pg_class c on c.oid = a.attrelid
join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and a.attnum > 0 and not a.attisdropped and left(n.nspname, 3) <> 'pg_'
  and format_type(a.atttypid, a.atttypmod) in ('date', 'timestamp without time zone', 'timestamp with time zone')
order by a.attrelid, a.attnum
