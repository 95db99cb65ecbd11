-- Purpose: the columns of tables, in their order.
-- Source:  PG_CLASS, PG_ATTRIBUTE (leader node); as v_generate_tbl_ddl of amazon-redshift-utils reads them.
--          {tables}: a list of literals 'schema.table'.
-- Rights:  USAGE on the schemas.
-- Works:   provisioned and serverless.
select n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid
where c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
  and n.nspname || '.' || c.relname in ({tables})
order by n.nspname, c.relname, a.attnum
