-- Purpose:  bytes of all databases and of the write-ahead log: what fills the volume, apart from logs and temporary files.
-- Source:   pg_database_size, pg_ls_waldir.
-- Rights:   pg_monitor.
-- Versions: 14 to 18.
select (select coalesce(sum(pg_database_size(oid)), 0)::bigint from pg_database) as databases,
       (select coalesce(sum(size), 0)::bigint from pg_ls_waldir()) as wal;
