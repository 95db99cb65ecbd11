-- Purpose:  the tables that hold the database's oldest transaction ids.
-- Source:   relfrozenxid and relminmxid of pg_class.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select c.oid::regclass::text as "table",
       age(c.relfrozenxid) as xid_age,
       round(100.0 * age(c.relfrozenxid) / 2147483647, 2)::float8 as xid_percent,
       mxid_age(c.relminmxid) as multixact_age,
       pg_relation_size(c.oid) as bytes
  from pg_class c
 where c.relkind in ('r', 'm', 't') and c.relfrozenxid <> '0'
 order by greatest(age(c.relfrozenxid), mxid_age(c.relminmxid)) desc
 limit 20;
