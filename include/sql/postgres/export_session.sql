-- Purpose:  let a row have one text whatever the server's, database's and role's settings are, since rows are compared as
--           text across servers; and let the transaction that holds the snapshot stay open while others work.
-- Source:   what pg_dump sets for the same reason (setup_connection), and lc_monetary for the type money.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select set_config('search_path', 'pg_catalog', false),
       set_config('datestyle', 'ISO, YMD', false),
       set_config('intervalstyle', 'postgres', false),
       set_config('extra_float_digits', '1', false),
       set_config('bytea_output', 'hex', false),
       set_config('xmloption', 'content', false),
       set_config('lc_monetary', 'C', false),
       set_config('row_security', 'off', false),
       set_config('synchronize_seqscans', 'off', false),
       set_config('idle_in_transaction_session_timeout', '0', false);
