-- Purpose:  pages whose checksum was wrong when they were read: damaged storage. Null when checksums are off.
-- Source:   pg_stat_database; the row without a name counts shared tables.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select coalesce(datname, '(shared tables)') as database, checksum_failures as failures, checksum_last_failure as last
  from pg_stat_database
 where checksum_failures > 0
 order by failures desc;
