-- Only tables with rows, only for superusers, as the real one. `unsorted` is null without a sort key.
CREATE VIEW pg_catalog.svv_table_info AS
SELECT current_database()::text AS database,
       n.nspname::text AS schema,
       c.oid AS table_id,
       c.relname::text AS "table",
       CASE WHEN t.auto_encode THEN 'Y, AUTO(ENCODE)'
            WHEN EXISTS (SELECT FROM jsonb_each_text(t.encodings) e WHERE e.value <> 'raw') THEN 'Y' ELSE 'N' END AS encoded,
       rs.diststyle_text(t.diststyle, t.distkey, f.physical) AS diststyle,
       CASE WHEN t.sortkeys[1] IS NOT NULL THEN t.sortkeys[1] WHEN t.sortstyle = 'none' THEN NULL ELSE 'AUTO(SORTKEY)' END
           AS sortkey1,
       (SELECT max(a.atttypmod - 4) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.atttypid = 'varchar'::regtype AND a.attnum > 0) AS max_varchar,
       (CASE WHEN t.sortkeys[1] IS NOT NULL THEN coalesce(t.encodings ->> t.sortkeys[1], 'none') END)::char(32) AS sortkey1_enc,
       cardinality(t.sortkeys) AS sortkey_num,
       rs.megabytes(c.oid) AS size,
       round(100.0 * rs.megabytes(c.oid) / s.megabytes, 4)::numeric(10,4) AS pct_used,
       0::bigint AS empty,
       CASE WHEN t.sortkeys[1] IS NOT NULL THEN round(100.0 * f.unsorted / greatest(f.physical, 1), 2)::numeric(5,2) END
           AS unsorted,
       CASE WHEN f.analyzed IS NULL THEN 100
            ELSE least(100, round(100.0 * abs(f.physical - f.analyzed) / greatest(f.physical, 1), 2)) END::numeric(5,2)
           AS stats_off,
       f.physical::numeric(38,0) AS tbl_rows,
       CASE WHEN t.sortkeys[1] IS NOT NULL THEN rs.sort_skew(c.oid, t.sortkeys[1]) END::numeric(19,2) AS skew_sortkey1,
       CASE WHEN t.diststyle = 'key' THEN rs.row_skew(c.oid, t.distkey)
            WHEN t.diststyle <> 'all' THEN 1.00 END::numeric(19,2) AS skew_rows,
       (f.physical - f.deleted)::numeric(38,0) AS estimated_visible_rows,
       NULL::text AS risk_event,
       CASE WHEN t.sortkeys[1] IS NOT NULL THEN rs.sort_benefit(c.oid, f.unsorted, f.physical) END::numeric(12,2)
           AS vacuum_sort_benefit,
       t.created AS create_time
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN rs.table_note t ON t.relid = c.oid
CROSS JOIN LATERAL rs.figures(c.oid) f
CROSS JOIN rs.node_storage s
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND f.physical > 0;
