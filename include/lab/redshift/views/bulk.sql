-- Loads and unloads.
CREATE VIEW pg_catalog.stl_load_commits AS
SELECT rs.userid(f.username) AS userid, f.query_id::int AS query, f.slice, NULL::char(256) AS name,
       f.filename::char(256) AS filename, 0 AS byte_offset, f.lines::int AS lines_scanned, 0 AS errors, f.at
              AS curtime,
       (f.status = 'completed')::int AS status, f.file_format::char(16) AS file_format, 0 AS is_partial,
       0::bigint AS start_offset, 0::bigint AS copy_job_id
FROM rs.load_file() f WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.stl_load_errors AS
SELECT rs.userid(e.username) AS userid, 0 AS slice, e.table_id::int AS tbl, e.at AS starttime,
       coalesce(l.pid, 0) AS session, e.query_id::int AS query, e.filename::char(256) AS filename, e.line_number,
       e.colname::char(127) AS colname, e.type::char(10) AS type, e.col_length::char(10) AS col_length, e.position
              AS "position",
       e.raw_line::char(1024) AS raw_line, e.raw_field_value::char(1024) AS raw_field_value, e.err_code,
       e.err_reason::char(100) AS err_reason, 0 AS is_partial, 0::bigint AS start_offset, 0::bigint AS copy_job_id
FROM rs.load_error() e LEFT JOIN rs.load() l USING (query_id) WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.stl_loaderror_detail AS
SELECT rs.userid(e.username) AS userid, 0 AS slice, coalesce(l.pid, 0) AS session, e.query_id::int AS query,
       e.filename::char(256) AS filename, e.line_number, e.line_number AS field, e.colname::char(1024) AS colname,
       e.raw_field_value::char(1024) AS value, 0 AS is_null, e.type::char(10) AS type, e.col_length::char(10)
              AS col_length
FROM rs.load_error() e LEFT JOIN rs.load() l USING (query_id) WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.sys_load_history AS
SELECT rs.userid(l.username) AS user_id, l.query_id, l.xid AS transaction_id, l.pid AS session_id,
       l.database AS database_name, l.status, l.table_name, l.started AS start_time, l.ended AS end_time,
       (extract(epoch FROM l.ended - l.started) * 1000000)::bigint AS duration, l.data_source,
       lower(l.file_format) AS file_format, l.loaded_rows, l.loaded_bytes, l.files AS source_file_count,
       l.loaded_bytes AS source_file_bytes, l.files AS file_count_scanned, l.loaded_bytes AS file_bytes_scanned,
       l.errors::bigint AS error_count, 0::bigint AS copy_job_id
FROM rs.load() l;

CREATE VIEW pg_catalog.sys_load_detail AS
SELECT rs.userid(f.username) AS user_id, f.query_id::int AS query_id, f.filename::char(256) AS file_name,
       f.bytes::int AS bytes_scanned, f.lines::int AS lines_scanned, f.at AS record_time, 1 AS splits_scanned,
       f.started AS start_time, f.at AS end_time, NULL::char(256) AS file_etag, NULL::timestamp AS file_last_modified
FROM rs.load_file() f;

CREATE VIEW pg_catalog.sys_load_error_detail AS
SELECT rs.userid(e.username) AS user_id, e.query_id, l.xid AS transaction_id, l.pid AS session_id,
       coalesce(l.database, current_database()::text)::char(64) AS database_name, e.table_id::int AS table_id,
              e.at AS start_time,
       e.filename::char(256) AS file_name, e.line_number, e.colname::char(127) AS column_name, e.type::char(10)
              AS column_type,
       e.col_length::char(10) AS column_length, e.position AS "position", e.err_code AS error_code,
       e.err_reason::char(512) AS error_message
FROM rs.load_error() e LEFT JOIN rs.load() l USING (query_id);

CREATE VIEW pg_catalog.stl_unload_log AS
SELECT rs.userid(f.username) AS userid, f.query_id::int AS query, f.slice, f.pid, f.path::char(1280) AS path,
       f.started AS start_time, f.ended AS end_time, f.rows AS line_count, f.bytes AS transfer_size,
       f.file_format::char(10) AS file_format
FROM rs.unload_file() f WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.sys_unload_history AS
SELECT rs.userid(u.username) AS user_id, u.query_id, u.xid AS transaction_id, u.pid AS session_id,
       u.database AS database_name, u.status, u.started AS start_time, u.ended AS end_time,
       (extract(epoch FROM u.ended - u.started) * 1000000)::bigint AS duration, u.file_format,
       u.compression AS compression_type, u.destination AS unloaded_location, u.rows AS unloaded_rows,
       u.files::bigint AS unloaded_files_count, u.bytes AS unloaded_files_size, u.error AS error_message
FROM rs.unload() u;

CREATE VIEW pg_catalog.sys_unload_detail AS
SELECT rs.userid(f.username) AS user_id, f.query_id::int AS query_id, f.pid AS session_id, u.xid AS transaction_id,
       f.path::char(1280) AS file_name, f.started AS start_time, f.ended AS end_time, f.rows AS line_count,
       f.bytes AS transfer_size, f.file_format::char(10) AS file_format
FROM rs.unload_file() f LEFT JOIN rs.unload() u USING (query_id);

GRANT SELECT ON pg_catalog.stl_load_commits, pg_catalog.stl_load_errors, pg_catalog.stl_loaderror_detail,
    pg_catalog.sys_load_history, pg_catalog.sys_load_detail, pg_catalog.sys_load_error_detail,
        pg_catalog.stl_unload_log,
    pg_catalog.sys_unload_history, pg_catalog.sys_unload_detail TO PUBLIC;
