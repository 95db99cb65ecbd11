-- Purpose:  least privilege for the role behind the platform's connection `dbops_postgres_export`: it reads everything in
--           the databases that are exported and can change nothing.
-- Source:   predefined roles of PostgreSQL. pg_read_all_data covers tables, views and sequences of every schema; pg_dump
--           locks each table against changes of its definition, which SELECT is enough for. BYPASSRLS (superuser, or on RDS
--           rds_superuser may give it) is needed only where tables have row security: pg_dump refuses to store part of a
--           table. Large objects are read by their owner only, until the role is granted them.
-- Rights:   as a superuser, or on RDS as rds_superuser; the role exists. Run it in every database that is exported:
--             psql -X -v ON_ERROR_STOP=1 -v export=dbops_export -d exchange -f export_grants.sql
-- Versions: 14 to 18.

BEGIN;
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'export') \gexec
GRANT pg_read_all_data TO :"export";
COMMIT;
