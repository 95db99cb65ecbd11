-- Purpose:  least privilege for the role behind the platform's connection `dbops_postgres`: it sees every figure of the
--           reports and can change nothing.
-- Source:   predefined roles of PostgreSQL. `maintainer`, the role behind `dbops_postgres_maintenance`, is the owner of the
--           tables, or from 17 on a role with pg_maintain; before 17 nobody else may VACUUM, ANALYZE or REINDEX.
-- Rights:   as a superuser, or on RDS as rds_superuser that is a member of the owner (else the sequences stay unseen, with
--           a warning); the role exists. Run it in every database of the platform file, and after migrations that bring
--           sequences:
--             psql -X -v ON_ERROR_STOP=1 -v monitor=dbops_monitor -d exchange -f grants.sql
-- Versions: 14 to 18.
-- To see the bloat estimates the role needs SELECT on the tables, since pg_stats shows no others: GRANT pg_read_all_data
-- where it may read the data. Without, the reports say that they do not know; pgstattuple measures with these rights.
-- On RDS pg_stat_statements is in shared_preload_libraries already; elsewhere it has to be put there first.

BEGIN;
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'monitor') \gexec
GRANT pg_monitor TO :"monitor";
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
CREATE EXTENSION IF NOT EXISTS pgstattuple;
-- Read only: how far they are, not nextval.
SELECT format('GRANT SELECT ON ALL SEQUENCES IN SCHEMA %I TO %I', nspname, :'monitor')
  FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\_%' \gexec
-- The migrations, where goose writes its table otherwise: name that one.
SELECT format('GRANT SELECT ON %s TO %I', to_regclass('public.goose_db_version'), :'monitor')
 WHERE to_regclass('public.goose_db_version') IS NOT NULL \gexec
COMMIT;
