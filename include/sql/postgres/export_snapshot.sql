-- Purpose:  hand the snapshot of this transaction to pg_dump, so that both see the same rows, and note whose it is.
-- Source:   pg_export_snapshot, in a transaction that is REPEATABLE READ; it holds as long as that is open.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select pg_export_snapshot() as snapshot, clock_timestamp() as at, current_setting('server_version') as version,
       pg_encoding_to_char(d.encoding) as encoding, d.datcollate as collation, d.datctype as ctype,
       (select system_identifier from pg_control_system()) as system
  from pg_database d
 where d.datname = current_database();
