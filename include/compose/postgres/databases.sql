-- Purpose: the databases and roles of docker-compose.yaml. PostgreSQL's image runs it once, on an empty volume.
-- Rights:  superuser. The passwords come from the environment and stand in no file and on no command line.
\getenv airflow_password AIRFLOW_DB_PASSWORD
\getenv owner_password LEDGER_OWNER_PASSWORD
\getenv writer_password LEDGER_WRITER_PASSWORD

CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE DATABASE airflow OWNER airflow;

CREATE ROLE ledger_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE ledger_writer LOGIN PASSWORD :'writer_password';
CREATE DATABASE dbops_ledger OWNER ledger_owner;
