-- Purpose:  least privilege for the role behind the platform's connection `dbops_postgres_recovery`: it reads the tables that a
--           recovery compares, sees who is connected, and can change nothing.
-- Source:   predefined roles of PostgreSQL.
-- Rights:   as the owner of the schema's tables who has ADMIN on pg_monitor, a superuser, or on RDS rds_superuser; the role
--           exists. Run it in every database that `recovery.validations` or `recovery.tables` name, for each schema:
--             psql -X -v ON_ERROR_STOP=1 -v reader=dbops_recovery -v schema=public -d exchange -f recovery_grants.sql
--           The role must have been there at the second that is restored: make it now, not on the day.
-- Versions: 14 to 18.

BEGIN;
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'reader') \gexec
GRANT pg_monitor TO :"reader";
GRANT USAGE ON SCHEMA :"schema" TO :"reader";
GRANT SELECT ON ALL TABLES IN SCHEMA :"schema" TO :"reader";
-- Tables that the one who runs this makes later.
ALTER DEFAULT PRIVILEGES IN SCHEMA :"schema" GRANT SELECT ON TABLES TO :"reader";
COMMIT;
