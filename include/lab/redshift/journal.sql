-- What `journal` writes, one table for each kind of record, and how a transaction older than a record sees it.
CREATE TABLE rs.j_query (
    seq bigint PRIMARY KEY, query_id bigint, xid bigint, pid int, username text, database text, query_type text,
    querytxt text, started timestamp, ended timestamp, rows bigint, error text, tables text[], label text, slots int,
    control text, queued float8, service_class int, cpu float8, bytes_scanned bigint
);
CREATE TABLE rs.j_load (
    seq bigint PRIMARY KEY, query_id bigint, xid bigint, pid int, username text, database text, status text,
    table_name text, table_id bigint, started timestamp, ended timestamp, data_source text, file_format text,
    loaded_rows bigint, loaded_bytes bigint, files int, errors int, error text
);
CREATE TABLE rs.j_load_file (
    seq bigint PRIMARY KEY, query_id bigint, username text, table_id bigint, started timestamp, at timestamp,
    filename text, file_format text, lines bigint, bytes bigint, slice int, status text
);
CREATE TABLE rs.j_load_error (
    seq bigint PRIMARY KEY, query_id bigint, username text, at timestamp, table_id bigint, table_name text,
    filename text, line_number bigint, colname text, type text, col_length text, position int, raw_line text,
    raw_field_value text, err_code int, err_reason text
);
CREATE TABLE rs.j_unload (
    seq bigint PRIMARY KEY, query_id bigint, xid bigint, pid int, username text, database text, status text,
    started timestamp, ended timestamp, file_format text, rows bigint, bytes bigint, files int, error text,
    destination text
);
CREATE TABLE rs.j_unload_file (
    seq bigint PRIMARY KEY, query_id bigint, pid int, username text, started timestamp, ended timestamp, path text,
    rows bigint, bytes bigint, file_format text, slice int
);
CREATE TABLE rs.j_vacuum (
    seq bigint PRIMARY KEY, query_id bigint, xid bigint, username text, table_id bigint, schema_name text,
    table_name text, form text, started timestamp, ended timestamp, status text, rows bigint, rows_before bigint,
    reclaimable bigint, reclaimed bigint, sorted_before bigint, sorted_after bigint, megabytes_before bigint,
    freed bigint, blocks bigint, threshold int
);
CREATE TABLE rs.j_analyze (
    seq bigint PRIMARY KEY, query_id bigint, xid bigint, username text, table_id bigint, schema_name text,
    table_name text, status text, started timestamp, ended timestamp, rows float8, modified float8, threshold float8
);
CREATE TABLE rs.j_alert (
    seq bigint PRIMARY KEY, query_id bigint, xid bigint, pid int, username text, at timestamp, table_name text,
    event text, solution text
);
CREATE TABLE rs.j_scan (
    seq bigint PRIMARY KEY, query_id bigint, username text, started timestamp, ended timestamp, table_id bigint,
    table_name text, rows bigint, rows_before bigint, bytes bigint, is_range boolean
);

-- What the proxy told this session just before its statement.
CREATE FUNCTION rs.told(what text) RETURNS json
LANGUAGE sql STABLE AS $$ SELECT nullif(current_setting('rs.session', true), '')::json -> what $$;

CREATE FUNCTION rs.is_provisioned() RETURNS boolean
LANGUAGE sql STABLE AS $$ SELECT NOT coalesce((rs.told('serverless')::text)::boolean, false) $$;

-- The records of a kind that this user may see: the tables, and what was recorded since the transaction began.
DO $do$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY '{query,load,load_file,load_error,unload,unload_file,vacuum,analyze,alert,scan}'::text[] LOOP
        EXECUTE format($f$
            CREATE FUNCTION rs.%1$s() RETURNS SETOF rs.j_%1$s
            LANGUAGE sql STABLE SECURITY DEFINER AS $$
                SELECT * FROM (
                    SELECT * FROM rs.j_%1$s
                    UNION ALL
                    SELECT * FROM json_populate_recordset(null::rs.j_%1$s, rs.told('tail') -> '%1$s')
                    WHERE seq > (SELECT coalesce(max(seq), 0) FROM rs.j_%1$s)
                ) r
                WHERE username = session_user OR (SELECT usesuper FROM pg_user WHERE usename = session_user)
            $$ $f$, kind);
    END LOOP;
END $do$;

CREATE FUNCTION rs.userid(name text) RETURNS int
LANGUAGE sql STABLE AS $$ SELECT oid::bigint::int FROM pg_roles WHERE rolname = name $$;

-- Functions that tell of the session's last statements.
DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{pg_last_copy_count,pg_last_copy_id,pg_last_query_id,pg_last_unload_count,pg_last_unload_id}'::text[] LOOP
        EXECUTE format($f$ CREATE FUNCTION pg_catalog.%1$I() RETURNS bigint LANGUAGE sql VOLATILE AS
            $$ SELECT (rs.told('last') ->> '%1$s')::bigint $$ $f$, name);
    END LOOP;
END $do$;

CREATE TABLE rs.node_storage (megabytes bigint NOT NULL);
INSERT INTO rs.node_storage VALUES (1000000);
