-- Statements: what ran, how long it waited, what failed. STL_ and SVL_ views hold nothing on serverless.
CREATE VIEW rs.statements AS
SELECT q.*, rs.userid(q.username) AS userid, coalesce(q.service_class, 100) AS class,
       q.started + coalesce(q.queued, 0) * interval '1 second' AS executing,
       (coalesce(q.queued, 0) * 1000000)::bigint AS queue_us,
       (extract(epoch FROM q.ended - q.started) * 1000000)::bigint AS elapsed_us,
       q.query_type NOT IN ('UTILITY', 'DDL', 'EMPTY') AND coalesce(q.is_planned, true) AS is_query
FROM rs.query() q;
GRANT SELECT ON rs.statements TO PUBLIC;

CREATE VIEW pg_catalog.stl_query AS
SELECT userid, query_id::int AS query, coalesce(nullif(label, 'unset'), 'default')::char(320) AS label, xid, pid,
       database::char(32) AS database, querytxt::char(4000) AS querytxt, started AS starttime, ended AS endtime,
       (error IS NOT NULL)::int AS aborted, 0 AS insert_pristine, 0 AS concurrency_scaling_status
FROM rs.statements WHERE is_query AND rs.is_provisioned();

CREATE VIEW pg_catalog.stl_querytext AS
SELECT userid, xid, pid, query_id::int AS query, s AS sequence, substr(querytxt, s * 200 + 1, 200)::char(200) AS text
FROM rs.statements CROSS JOIN LATERAL generate_series(0, (length(querytxt) - 1) / 200) s
WHERE is_query AND rs.is_provisioned();

CREATE VIEW pg_catalog.stl_ddltext AS
SELECT userid, xid, pid, coalesce(nullif(label, 'unset'), 'default')::char(320) AS label, started AS starttime,
       ended AS endtime, 0 AS sequence, querytxt::char(200) AS text
FROM rs.statements WHERE query_type = 'DDL' AND rs.is_provisioned();

CREATE VIEW pg_catalog.stl_utilitytext AS
SELECT userid, xid, pid, coalesce(nullif(label, 'unset'), 'default')::char(320) AS label, started AS starttime,
       ended AS endtime, 0 AS sequence, coalesce(upper(control), querytxt)::char(200) AS text
FROM rs.statements WHERE query_type = 'UTILITY' AND rs.is_provisioned();

CREATE VIEW pg_catalog.stl_wlm_query AS
SELECT userid, xid, 0 AS task, query_id::int AS query, class AS service_class, slots AS slot_count,
       started AS service_class_start_time, started AS queue_start_time, executing AS queue_end_time,
       queue_us AS total_queue_time, executing AS exec_start_time, ended AS exec_end_time,
       elapsed_us - queue_us AS total_exec_time, ended AS service_class_end_time, 'Completed'::char(16)
              AS final_state,
       coalesce(memory, 0) AS est_peak_mem, 'Normal'::char(20) AS query_priority,
       rs.class_name(class)::char(64) AS service_class_name
FROM rs.statements WHERE is_query AND rs.is_provisioned();

CREATE VIEW pg_catalog.svl_query_queue_info AS
SELECT database::text AS database, query_id::int AS query, xid, userid, querytxt::text AS querytxt,
       started AS queue_start_time, executing AS exec_start_time, class AS service_class, slots,
       queue_us / 1000000 AS queue_elapsed, (elapsed_us - queue_us) / 1000000 AS exec_elapsed,
       elapsed_us / 1000000 AS wlm_total_elapsed, 0::bigint AS commit_queue_elapsed, 0::bigint AS commit_exec_time,
       rs.class_name(class)::char(64) AS service_class_name
FROM rs.statements WHERE is_query AND rs.is_provisioned();

CREATE VIEW pg_catalog.svl_query_metrics_summary AS
SELECT userid, query_id::int AS query, class AS service_class,
       ceil(coalesce(cpu, extract(epoch FROM ended - executing)))::bigint AS query_cpu_time,
       coalesce(blocks_read, 0) AS query_blocks_read, ((elapsed_us - queue_us) / 1000000)::bigint
              AS query_execution_time,
       round((100.0 * coalesce(cpu, 0) / greatest(extract(epoch FROM ended - executing), 0.001))::numeric, 2)
           ::numeric(38,2) AS query_cpu_usage_percent,
       coalesce(temporary_mb, 0) AS query_temp_blocks_to_disk, ((elapsed_us - queue_us) / 1000000)::bigint
              AS segment_execution_time,
       1::numeric(38,2) AS cpu_skew, 1::numeric(38,2) AS io_skew, rows AS scan_row_count, 0::bigint AS join_row_count,
       0::bigint AS nested_loop_join_row_count, rows AS return_row_count, 0::bigint AS spectrum_scan_row_count,
       0::bigint AS spectrum_scan_size_mb, queue_us / 1000000 AS query_queue_time,
       rs.class_name(class)::char(64) AS service_class_name
FROM rs.statements WHERE is_query AND rs.is_provisioned();

CREATE VIEW pg_catalog.stl_scan AS
SELECT rs.userid(s.username) AS userid, s.query_id::int AS query, 0 AS slice, 0 AS segment, 0 AS step,
       s.started AS starttime, s.ended AS endtime, 0 AS tasknum, s.rows, coalesce(s.bytes, 0) AS bytes,
       1::bigint AS fetches, 2 AS type, s.table_id::int AS tbl, CASE WHEN s.is_range THEN 't'
              ELSE 'f' END::char(1) AS is_rrscan,
       'f'::char(1) AS is_delayed_scan, s.rows_before AS rows_pre_filter, s.rows_before AS rows_pre_user_filter,
       s.table_name::char(136) AS perm_table_name
FROM rs.scan() s WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.stl_alert_event_log AS
SELECT rs.userid(a.username) AS userid, a.query_id::int AS query, 0 AS slice, 0 AS segment, 0 AS step, a.pid, a.xid,
       a.event::char(1024) AS event, a.solution::char(1024) AS solution, a.at AS event_time
FROM rs.alert() a WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.stl_undone AS
SELECT xid AS xact_id, xid AS xact_id_undone, started AS undo_start_ts, ended AS undo_end_ts, 0::bigint AS table_id
FROM rs.statements WHERE control = 'rollback' AND rs.is_provisioned();

CREATE VIEW pg_catalog.stl_tr_conflict AS
SELECT xid AS xact_id, pid AS process_id, started AS xact_start_ts, ended AS abort_time, 0::bigint AS table_id,
       '1023'::char(64) AS xact_with_err
FROM rs.statements WHERE error = '1023' AND rs.is_provisioned();

CREATE VIEW pg_catalog.sys_query_history AS
SELECT userid AS user_id, query_id, coalesce(nullif(label, 'unset'), 'default')::char(320) AS query_label,
       xid AS transaction_id, pid AS session_id, database::char(128) AS database_name, query_type::char(32)
              AS query_type,
       CASE WHEN error IS NULL THEN 'success' WHEN error LIKE 'Query%cancelled on user%' THEN 'canceled'
              ELSE 'failed' END
           ::char(10) AS status,
       coalesce(is_cached, false) AS result_cache_hit, started AS start_time, ended AS end_time, elapsed_us
              AS elapsed_time,
       queue_us AS queue_time, elapsed_us - queue_us AS execution_time, error::char(512) AS error_message,
       rows AS returned_rows, 0::bigint AS returned_bytes, querytxt::char(4000) AS query_text,
       rs.version()::char(256) AS redshift_version, ''::char(150) AS usage_limit,
       CASE WHEN rs.is_provisioned() THEN 'primary' ELSE 'primary-serverless' END::varchar(32) AS compute_type,
       0::bigint AS compile_time, 0::bigint AS planning_time, 0::bigint AS lock_wait_time, class AS service_class_id,
       rs.class_name(class)::char(64) AS service_class_name, 'Normal'::char(20) AS query_priority,
       'false'::char(10) AS short_query_accelerated
FROM rs.statements WHERE query_type <> 'EMPTY'
UNION ALL
SELECT rs.userid(s.username), s.query_id, 'default', s.xid, s.pid, s.database, s.query_type, 'running', false,
       s.query_started, NULL::timestamp, (extract(epoch FROM rs.utc() - s.query_started) * 1000000)::bigint,
              0::bigint,
       (extract(epoch FROM rs.utc() - s.query_started) * 1000000)::bigint, NULL, NULL::bigint, NULL::bigint,
       s.querytxt, rs.version(), '', 'primary', 0, 0, 0, 100, rs.class_name(100), 'Normal', 'false'
FROM rs.sessions s WHERE s.query_id IS NOT NULL;

CREATE VIEW pg_catalog.sys_query_detail AS
SELECT rs.userid(s.username) AS user_id, s.query_id, 1 AS child_query_sequence, 0 AS stream_id, 0 AS segment_id, 0
       AS step_id,
       'scan'::text AS step_name, s.table_id::int AS table_id, s.table_name::char(136) AS table_name,
       CASE WHEN s.is_range THEN 't' ELSE 'f' END::char(1) AS is_rrscan, s.started AS start_time, s.ended AS end_time,
       (extract(epoch FROM s.ended - s.started) * 1000000)::bigint AS duration,
       (SELECT string_agg(a.event || ':' || a.solution, ';') FROM rs.alert() a WHERE a.query_id = s.query_id)
              AS alert,
       coalesce(s.bytes, 0) AS input_bytes, s.rows_before AS input_rows, 0::bigint AS output_bytes, s.rows
              AS output_rows,
       0::bigint AS blocks_read, 0::bigint AS spilled_block_local_disk, 0::bigint AS spilled_block_remote_disk,
       'step'::text AS metrics_level
FROM rs.scan() s;

CREATE VIEW pg_catalog.stv_recents AS
SELECT rs.userid(s.username) AS userid, 'Running'::char(20) AS status, s.query_started AS starttime,
       (extract(epoch FROM rs.utc() - s.query_started) * 1000000)::int AS duration, s.username::char(50) AS user_name,
       s.database::char(50) AS db_name, s.querytxt::char(600) AS query, s.pid
FROM rs.sessions s WHERE s.query_id IS NOT NULL AND rs.is_provisioned()
UNION ALL
(SELECT userid, 'Done', started, elapsed_us::int, username, database, querytxt, -1
 FROM rs.statements WHERE rs.is_provisioned() AND is_query ORDER BY seq DESC LIMIT 100);

CREATE VIEW pg_catalog.stv_inflight AS
SELECT rs.userid(s.username) AS userid, 0 AS slice, s.query_id::int AS query, 'default'::char(320) AS label, s.xid,
       s.pid,
       s.query_started AS starttime, s.querytxt::char(100) AS text, 0 AS suspended, 0 AS insert_pristine,
       0 AS concurrency_scaling_status
FROM rs.sessions s WHERE s.query_id IS NOT NULL AND rs.is_provisioned();

CREATE VIEW pg_catalog.stv_sessions AS
SELECT s.started AS starttime, s.pid AS process, s.username::char(50) AS user_name, s.database::char(50) AS db_name,
       0 AS timeout_sec
FROM rs.sessions s WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.stv_wlm_query_state AS
SELECT s.xid, 0 AS task, s.query_id::int AS query, 100 AS service_class, 1 AS slot_count, s.query_started
       AS wlm_start_time,
       'Running'::char(16) AS state, 0::bigint AS queue_time,
       (extract(epoch FROM rs.utc() - s.query_started) * 1000000)::bigint AS exec_time, 'Normal'::char(20)
              AS query_priority
FROM rs.sessions s WHERE s.query_id IS NOT NULL AND rs.is_provisioned();

-- Automatic WLM with one queue for users.
CREATE VIEW pg_catalog.stv_wlm_service_class_config AS
SELECT c.id AS service_class, 'fixed query/mem pool'::char(32) AS queueing_strategy, c.tasks AS num_query_tasks,
       c.tasks AS target_num_query_tasks, 'false'::char(8) AS evictable, 0::bigint AS eviction_threshold,
       c.memory AS query_working_mem, c.memory AS target_query_working_mem, 5 AS min_step_mem,
       rs.class_name(c.id)::char(64) AS name, 0::bigint AS max_execution_time, c.id = 100 AS user_group_wild_card,
       c.id = 100 AS query_group_wild_card, 'off'::char(20) AS concurrency_scaling, 'Normal'::char(20)
              AS query_priority,
       c.id = 100 AS user_role_wild_card
FROM (VALUES (5, 1, 297), (14, 6, 297), (15, 5, 297), (100, -1, -1)) c(id, tasks, memory) WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.stv_wlm_service_class_state AS
SELECT c.id AS service_class, 0 AS num_queued_queries,
       (SELECT count(*) FROM rs.sessions s WHERE s.query_id IS NOT NULL AND c.id = 100)::int AS num_executing_queries,
       (SELECT count(*) FROM rs.statements q WHERE q.is_query AND q.class = c.id)::int AS num_serviced_queries,
       (SELECT count(*) FROM rs.statements q WHERE q.is_query AND q.class = c.id)::int AS num_executed_queries,
       0 AS num_evicted_queries, 0 AS num_concurrency_scaling_queries
FROM (VALUES (5), (14), (15), (100)) c(id) WHERE rs.is_provisioned();

-- One row for each minute in which something ran.
CREATE VIEW pg_catalog.sys_serverless_usage AS
SELECT date_trunc('minute', started) AS start_time, date_trunc('minute', started) + interval '1 minute' AS end_time,
       round(sum(extract(epoch FROM ended - started))::numeric * 8, 2)::float8 AS compute_seconds, 8::float8
              AS compute_capacity,
       (SELECT coalesce(sum(rs.megabytes(n.relid)), 0) FROM rs.table_note n)::bigint AS data_storage,
       0::bigint AS cross_region_transferred_data,
       greatest(60, ceil(sum(extract(epoch FROM ended - started))::numeric)) ::bigint * 8 AS charged_seconds
FROM rs.statements WHERE NOT rs.is_provisioned() GROUP BY 1;

GRANT SELECT ON pg_catalog.stl_query, pg_catalog.stl_querytext, pg_catalog.stl_ddltext, pg_catalog.stl_utilitytext,
    pg_catalog.stl_wlm_query, pg_catalog.svl_query_queue_info, pg_catalog.svl_query_metrics_summary,
        pg_catalog.stl_scan,
    pg_catalog.stl_alert_event_log, pg_catalog.stl_undone, pg_catalog.sys_query_history, pg_catalog.sys_query_detail,
    pg_catalog.stv_recents, pg_catalog.stv_inflight, pg_catalog.stv_sessions,
        pg_catalog.stv_wlm_query_state TO PUBLIC;
