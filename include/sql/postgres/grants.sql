-- Purpose:  least privilege for the role behind the platform's connection `dbops_postgres`: it sees every figure of the
--           reports and can change nothing.
-- Source:   predefined roles of PostgreSQL. `maintainer`, the role behind `dbops_postgres_maintenance`, is the owner of the
--           tables, or from 17 on a role with pg_maintain; before 17 nobody else may VACUUM, ANALYZE or REINDEX.
-- Rights:   as a superuser, or on RDS as rds_superuser; the role exists. Run it in every database of the platform file:
--             psql -X -v ON_ERROR_STOP=1 -v monitor=dbops_monitor -d exchange -f grants.sql
-- Versions: 14 to 18.
-- To see the bloat estimates the role needs SELECT on the tables (pg_stats shows no others), and to see sequences USAGE:
-- GRANT pg_read_all_data, where it may read the data. Without, the reports say what they do not know. On RDS
-- pg_stat_statements is in shared_preload_libraries already; elsewhere it has to be put there first.

BEGIN;
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'monitor') \gexec
GRANT pg_monitor TO :"monitor";
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
CREATE EXTENSION IF NOT EXISTS pgstattuple;
COMMIT;
