-- Purpose:  size of one table with its TOAST part, for the ledger, before and after VACUUM. Null: it is gone.
-- Source:   pg_table_size, which waits while somebody holds an exclusive lock on the table.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select pg_table_size(%s::oid) as bytes;
