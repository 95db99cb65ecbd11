-- Purpose: least privilege on the ledger. The owner migrates (`dbops ledger migrate`, at deployment, by a person or the
--          pipeline); the writer is the role behind the connection dbops_ledger that DAGs and alerts use: it reads, adds
--          and updates rows, and can neither remove a row nor change a table.
-- Run:     after the first migration, as the owner of the database, once; later tables are covered.
--            psql -X -v ON_ERROR_STOP=1 -v owner=ledger_owner -v writer=ledger_writer -d dbops_ledger -f grants.sql
-- Rights:  owner of the database. Both roles exist; this file creates none and knows no password.

BEGIN;

-- PostgreSQL before 15 lets everybody create in schema public; every version lets everybody connect and make temporary tables.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
SELECT format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'writer') \gexec

GRANT USAGE ON SCHEMA public TO :"writer";
GRANT SELECT, INSERT, UPDATE ON restore_point, archived_partition, check_result, action, incident TO :"writer";
GRANT SELECT ON alembic_version TO :"writer";

-- Tables of later migrations.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT SELECT, INSERT, UPDATE ON TABLES TO :"writer";

COMMIT;
