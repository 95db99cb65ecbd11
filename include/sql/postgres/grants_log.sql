-- Purpose:  lets the role behind `dbops_postgres` read the server's log, and no other file of the server, so that changes of
--           the schema by roles that should make none are found (`audit.log: server`). Not on RDS: the API is asked there.
-- Source:   pg_read_binary_file. A right on that function itself would open the whole data directory, with the password
--           hashes of pg_authid in it; this one takes the name of a file that pg_ls_logdir shows, at most 1 MB at once.
-- Rights:   as a superuser; the role exists, and has what grants.sql gives. Run it in the first database of the platform file:
--             psql -X -v ON_ERROR_STOP=1 -v monitor=dbops_monitor -d exchange -f grants_log.sql
-- Versions: 14 to 18. The server needs `logging_collector = on` and `log_statement = ddl` (or pgAudit), and role and database in
--           log_line_prefix (as in '%m [%p] %q%u@%d %a '), unless it writes csvlog.
-- The log holds statements as they were written, passwords in CREATE ROLE too: this role sees them. The reports do not.

BEGIN;
CREATE SCHEMA IF NOT EXISTS dbops;
REVOKE ALL ON SCHEMA dbops FROM PUBLIC;
CREATE OR REPLACE FUNCTION dbops.read_log(file text, first_byte bigint, most_bytes bigint) RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_read_binary_file(current_setting('log_directory') || '/' || name, first_byte, least(most_bytes, 1048576))
      FROM pg_ls_logdir()
     WHERE name = file AND first_byte >= 0 AND most_bytes >= 0
$$;
REVOKE ALL ON FUNCTION dbops.read_log(text, bigint, bigint) FROM PUBLIC;
GRANT USAGE ON SCHEMA dbops TO :"monitor";
GRANT EXECUTE ON FUNCTION dbops.read_log(text, bigint, bigint) TO :"monitor";
COMMIT;
