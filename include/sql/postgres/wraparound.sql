-- Purpose:  how far each database is from the point where PostgreSQL stops accepting writes to protect its transaction
--           ids (2^31), and from the forced autovacuum.
-- Source:   datfrozenxid and datminmxid of pg_database.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select datname as database,
       age(datfrozenxid) as xid_age,
       round(100.0 * age(datfrozenxid) / 2147483647, 2)::float8 as xid_percent,
       round(100.0 * age(datfrozenxid) / current_setting('autovacuum_freeze_max_age')::bigint, 1)::float8 as forced_percent,
       mxid_age(datminmxid) as multixact_age,
       round(100.0 * mxid_age(datminmxid) / 2147483647, 2)::float8 as multixact_percent
  from pg_database
 order by greatest(age(datfrozenxid), mxid_age(datminmxid)) desc;
