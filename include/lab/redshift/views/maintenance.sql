-- VACUUM and ANALYZE: one row when a table begins and one when it ends, or one when it is skipped.
CREATE VIEW pg_catalog.stl_vacuum AS
SELECT rs.userid(v.username) AS userid, v.xid, v.table_id::int AS table_id, v.status::char(30) AS status, v.rows,
       (CASE WHEN v.status = 'Finished' THEN v.sorted_after ELSE v.sorted_before END)::int AS sortedrows,
              v.blocks::int AS blocks,
       0 AS max_merge_partitions, coalesce(v.ended, v.started) AS eventtime,
       (v.reclaimable - v.reclaimed) AS reclaimable_rows, coalesce(v.freed, 0) AS reclaimable_space_mb,
       v.xid AS cutoff_xid, (v.form = 'recluster')::int AS is_recluster
FROM rs.vacuum() v WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.svv_vacuum_summary AS
SELECT v.table_name::text AS table_name, v.xid, 1::bigint AS sort_partitions, 0::bigint AS merge_increments,
       (extract(epoch FROM v.ended - v.started) * 1000000)::bigint AS elapsed_time, v.rows - v.rows_before
              AS row_delta,
       v.sorted_after - v.sorted_before AS sortedrow_delta, (v.blocks - v.megabytes_before)::int AS block_delta,
       0 AS max_merge_partitions
FROM rs.vacuum() v WHERE v.status = 'Finished' AND rs.is_provisioned();

-- The table that is being vacuumed, or the last one.
CREATE VIEW pg_catalog.svv_vacuum_progress AS
SELECT v.table_name::text AS table_name,
       CASE WHEN v.ended IS NOT NULL THEN 'Complete'
            WHEN EXISTS (SELECT FROM rs.sessions s WHERE s.query_id = v.query_id)
            THEN 'Vacuum ' || v.table_name || CASE v.form WHEN 'delete' THEN ' delete' ELSE ' sort' END
            ELSE 'Failed' END AS status,
       CASE WHEN v.ended IS NULL AND EXISTS (SELECT FROM rs.sessions s WHERE s.query_id = v.query_id)
            THEN '0m 1s' END AS time_remaining_estimate
FROM rs.vacuum() v WHERE rs.is_provisioned() AND v.seq = (SELECT max(seq) FROM rs.vacuum());

CREATE VIEW pg_catalog.sys_vacuum_history AS
SELECT rs.userid(v.username) AS user_id, v.xid AS transaction_id, v.query_id, current_database()::text
       AS database_name,
       v.schema_name, v.table_name, v.table_id::int AS table_id, initcap(v.form)::varchar(20) AS vacuum_type,
       false AS is_automatic,
       CASE WHEN v.status LIKE 'Skipped%' THEN 'Skipped' WHEN v.status = 'Finished' THEN 'Complete'
            WHEN EXISTS (SELECT FROM rs.sessions s WHERE s.query_id = v.query_id) THEN initcap(v.form)
                ELSE 'Failed' END
           ::varchar(256) AS status,
       v.started AS start_time, v.ended AS end_time, coalesce(v.ended, v.started) AS record_time,
       (extract(epoch FROM v.ended - v.started) * 1000000)::bigint AS duration, v.rows_before AS rows_before_vacuum,
       v.megabytes_before::int AS size_before_vacuum, v.reclaimable AS reclaimable_rows, v.reclaimed
              AS reclaimed_rows,
       coalesce(v.freed, 0) AS reclaimed_blocks, v.sorted_before AS sortedrows_before_vacuum,
       v.sorted_after AS sortedrows_after_vacuum
FROM rs.vacuum() v
WHERE v.ended IS NOT NULL
   OR NOT EXISTS (SELECT FROM rs.vacuum() w WHERE w.query_id = v.query_id AND w.table_id = v.table_id
       AND w.seq > v.seq);

CREATE VIEW pg_catalog.stl_analyze AS
SELECT rs.userid(a.username) AS userid, a.xid, current_database()::char(30) AS database, a.table_id::int AS table_id,
       a.status::char(15) AS status, a.rows, a.modified AS modified_rows, a.threshold::int AS threshold_percent,
       'f'::char(1) AS is_auto, a.started AS starttime, a.ended AS endtime,
       (SELECT max(p.ended) FROM rs.analyze() p WHERE p.table_id = a.table_id AND p.seq < a.seq
              AND p.status <> 'Skipped')
           AS prevtime,
       0 AS num_predicate_cols, 0 AS num_new_predicate_cols, 'f'::char(1) AS is_background, NULL::char(100)
              AS auto_analyze_phase
FROM rs.analyze() a WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.sys_analyze_history AS
SELECT rs.userid(a.username) AS user_id, a.xid AS transaction_id, current_database()::char(30) AS database_name,
       a.schema_name::char(30) AS schema_name, a.table_name::char(30) AS table_name, a.table_id::int AS table_id,
       'f'::char(1) AS is_automatic, a.status::char(15) AS status, a.started AS start_time, a.ended AS end_time,
              a.rows,
       a.modified AS modified_rows, a.threshold::int AS analyze_threshold_percent,
       (SELECT max(p.ended) FROM rs.analyze() p WHERE p.table_id = a.table_id AND p.seq < a.seq
              AND p.status <> 'Skipped')
           AS last_analyze_time
FROM rs.analyze() a;

GRANT SELECT ON pg_catalog.sys_vacuum_history TO PUBLIC;
