-- Purpose: least privilege for the login behind the connection dbops_redshift. It is no superuser, and reads and changes only
--          the schemas that are maintained and archived.
-- Run:     as a superuser, once for each schema; later tables of that owner are covered.
--            psql -X -v ON_ERROR_STOP=1 -v dbops=dbops -v schema=public -v owner=etl -h <host> -p 5439 -d <database> -f grants.sql
-- Rights:  superuser. The users exist; this file creates none and knows no password.
-- Works:   provisioned and serverless.

-- Statements, loads, vacuums and rights of others, not only its own.
ALTER USER :"dbops" SYSLOG ACCESS UNRESTRICTED;

-- System tables, VACUUM and ANALYZE of tables that it does not own, CANCEL. Predefined by Redshift.
GRANT ROLE sys:operator TO :"dbops";

-- SVV_TABLE_INFO is for superusers unless it is granted.
GRANT SELECT ON svv_table_info TO :"dbops";

-- Archival: UNLOAD reads, DELETE removes a day, DROP a day's table; a day that comes back is loaded into a table of its own
-- and inserted.
GRANT USAGE, CREATE ON SCHEMA :"schema" TO :"dbops";
GRANT SELECT, INSERT, DELETE, DROP ON ALL TABLES IN SCHEMA :"schema" TO :"dbops";

-- Tables that do not exist yet.
ALTER DEFAULT PRIVILEGES FOR USER :"owner" IN SCHEMA :"schema" GRANT SELECT, INSERT, DELETE, DROP ON TABLES TO :"dbops";
