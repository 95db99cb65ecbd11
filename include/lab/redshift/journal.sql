-- What `journal` writes, one table for each kind of record, and how a transaction older than a record sees it.
CREATE TABLE rs.j_query (
    seq bigint PRIMARY KEY, query_id bigint, xid bigint, pid int, username text, database text, query_type text,
    querytxt text, started timestamp, ended timestamp, rows bigint, error text, label text, slots int,
    control text,
    queued float8,          -- seconds in the queue, after `started`
    service_class int, cpu float8, memory bigint, blocks_read bigint, temporary_mb bigint, is_cached boolean,
    is_planned boolean
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
    destination text, compression text
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

-- Scans are recorded by name; which table that was, and what is to be said of it, is found when they are written.
CREATE FUNCTION rs.write_scans(records json) RETURNS void
LANGUAGE sql AS $$
    WITH found AS (
        SELECT r.*, c.oid AS relid, c.relname, f.*, t.sortkeys[1] = ANY (r.compared) AS is_range
        FROM json_to_recordset(records) r(seq bigint, query_id bigint, xid bigint, pid int, username text,
            started timestamp,
                                          ended timestamp, candidates text[], compared text[])
        JOIN pg_class c ON c.oid = (SELECT to_regclass(u.name) FROM unnest(r.candidates) WITH ORDINALITY u(name,
            place)
                                    WHERE to_regclass(u.name) IS NOT NULL ORDER BY u.place LIMIT 1)
        JOIN rs.table_note t ON t.relid = c.oid
        CROSS JOIN LATERAL rs.figures(c.oid) f
    ), alerts AS (
        INSERT INTO rs.j_alert SELECT seq * 2 + a.place, query_id, xid, pid, username, ended, relname, a.event,
            a.solution
        FROM found CROSS JOIN LATERAL (
            VALUES (0, analyzed IS NULL, 'Missing query planner statistics', 'Run the ANALYZE command'),
                   (1, deleted > 0.2 * physical, format('Scanned a large number of deleted rows:scanned %s deleted rows of %s',
                       deleted, physical), 'Run the VACUUM command to reclaim deleted space')
        ) a(place, applies, event, solution) WHERE a.applies AND physical > 0
    )
    INSERT INTO rs.j_scan SELECT seq, query_id, username, started, ended, relid, relname, physical - deleted,
        physical,
        NULL, coalesce(is_range, false) FROM found
$$;

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
                    WHERE seq > (SELECT coalesce(max(seq), 0) FROM rs.j_%1$s) AND '%1$s' NOT IN ('scan', 'alert')
                ) r
                WHERE username = session_user OR rs.sees_all()
            $$ $f$, kind);
    END LOOP;
END $do$;

CREATE FUNCTION rs.userid(name text) RETURNS int
LANGUAGE sql STABLE AS $$ SELECT oid::bigint::int FROM pg_roles WHERE rolname = name $$;

-- Who is connected through the proxy, and what runs.
CREATE VIEW rs.sessions AS
SELECT * FROM json_to_recordset(coalesce(rs.told('sessions'), '[]')) AS s(
    username text, database text, application text, xid bigint, pid int, started timestamp,
        transaction_started timestamp,
    query_id bigint, query_type text, query_started timestamp, querytxt text)
WHERE username = session_user OR rs.sees_all();
GRANT SELECT ON rs.sessions TO PUBLIC;

CREATE FUNCTION rs.utc() RETURNS timestamp LANGUAGE sql VOLATILE AS $$ SELECT clock_timestamp() AT TIME ZONE 'UTC' $$;
CREATE FUNCTION rs.version() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '1.0.77433'::text $$;
CREATE FUNCTION rs.class_name(id int) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE id WHEN 5 THEN 'Service class for super user' WHEN 14 THEN 'Short query queue'
                   WHEN 15 THEN 'Service class for vacuum/analyze' ELSE 'Default queue' END
$$;

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
