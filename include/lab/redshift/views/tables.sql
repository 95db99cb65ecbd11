-- Only tables with rows, only for superusers, as the real one. `unsorted` is null without a sort key.
CREATE VIEW pg_catalog.svv_table_info AS
SELECT current_database()::text AS database,
       n.nspname::text AS schema,
       c.oid AS table_id,
       c.relname::text AS "table",
       CASE WHEN t.auto_encode THEN 'Y, AUTO(ENCODE)'
            WHEN EXISTS (SELECT FROM jsonb_each_text(t.encodings) e WHERE e.value <> 'raw') THEN 'Y' ELSE 'N' END
                AS encoded,
       rs.diststyle_text(t.diststyle, t.distkey, f.physical) AS diststyle,
       CASE WHEN t.sortstyle = 'interleaved' THEN 'INTERLEAVED(' || t.sortkeys[1] || ')'
            WHEN t.sortkeys[1] IS NOT NULL THEN t.sortkeys[1] WHEN t.sortstyle = 'none' THEN NULL
            ELSE 'AUTO(SORTKEY)' END
           AS sortkey1,
       (SELECT max(a.atttypmod - 4) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.atttypid = 'varchar'::regtype AND a.attnum > 0) AS max_varchar,
       (CASE WHEN t.sortkeys[1] IS NOT NULL THEN coalesce(t.encodings ->> t.sortkeys[1], 'none') END)::char(32)
              AS sortkey1_enc,
       cardinality(t.sortkeys) AS sortkey_num,
       rs.megabytes(c.oid) AS size,
       round(100.0 * rs.megabytes(c.oid) / s.megabytes, 4)::numeric(10,4) AS pct_used,
       0::bigint AS empty,
       CASE WHEN t.sortkeys[1] IS NOT NULL THEN round(100.0 * f.unsorted / greatest(f.physical, 1),
              2)::numeric(5,2) END
           AS unsorted,
       CASE WHEN f.analyzed IS NULL THEN 100
            ELSE least(100, round(100.0 * abs(f.physical - f.analyzed) / greatest(f.physical, 1),
                2)) END::numeric(5,2)
           AS stats_off,
       f.physical::numeric(38,0) AS tbl_rows,
       CASE WHEN t.sortkeys[1] IS NOT NULL THEN rs.sort_skew(c.oid, t.sortkeys[1]) END::numeric(19,2)
              AS skew_sortkey1,
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

CREATE VIEW pg_catalog.stv_tbl_perm AS
SELECT s AS slice, c.oid::bigint::int AS id, c.relname::char(72) AS name,
       f.physical / 2 + (s = 0)::int * (f.physical % 2) AS rows,
       CASE WHEN t.sortkeys[1] IS NULL THEN 0 ELSE (f.physical - f.unsorted) / 2 END AS sorted_rows, 0 AS temp,
       d.oid::bigint::int AS db_id, 0 AS insert_pristine, 0 AS delete_pristine, 1 AS backup,
       CASE t.diststyle WHEN 'key' THEN 1 WHEN 'all' THEN 8 ELSE 0 END AS dist_style,
              (rs.megabytes(c.oid) / 2)::int AS block_count
FROM pg_class c
JOIN rs.table_note t ON t.relid = c.oid
JOIN pg_database d ON d.datname = current_database()
CROSS JOIN LATERAL rs.figures(c.oid) f
CROSS JOIN generate_series(0, 1) s
WHERE c.relkind = 'r' AND rs.is_provisioned();

CREATE VIEW pg_catalog.stv_slices AS
SELECT 0 AS node, s AS slice, s AS localslice, 'D'::char(1) AS type FROM generate_series(0, 1) s
       WHERE rs.is_provisioned();

CREATE VIEW rs.used AS
SELECT coalesce(sum(rs.megabytes(t.relid)), 0)::bigint AS megabytes
FROM rs.table_note t JOIN pg_class c ON c.oid = t.relid;

CREATE VIEW pg_catalog.stv_partitions AS
SELECT 0 AS owner, 0 AS host, 0 AS diskno, 0::bigint AS part_begin, s.megabytes AS part_end, u.megabytes::int AS used,
       0 AS tossed, s.megabytes::int AS capacity, 0::bigint AS reads, 0::bigint AS writes, 0 AS seek_forward, 0
              AS seek_back,
       0 AS is_san, 0 AS failed, 0 AS mbps, '/dev/nvme0n1'::char(256) AS mount
FROM rs.node_storage s CROSS JOIN rs.used u WHERE rs.is_provisioned();

CREATE VIEW pg_catalog.stv_node_storage_capacity AS
SELECT 0 AS node, u.megabytes::int AS used, s.megabytes::int AS capacity
FROM rs.node_storage s CROSS JOIN rs.used u WHERE rs.is_provisioned();

-- Blocks of one megabyte, one row for each.
CREATE VIEW pg_catalog.svv_diskusage AS
SELECT d.oid::bigint::int AS db_id, c.relname::char(72) AS name, (b % 2)::int AS slice, 0 AS col,
       c.oid::bigint::int AS tbl, b::int AS blocknum,
       (f.physical / greatest(m.megabytes, 1))::int AS num_values, 0::bigint AS minvalue, 0::bigint AS maxvalue, 0
              AS sb_pos,
       0 AS pinned, 1 AS on_disk, 0 AS modified, 0 AS hdr_modified, (f.unsorted > 0)::int AS unsorted, 0 AS tombstone,
       0 AS preferred_diskno, 0 AS temporary, 0 AS newblock, 0 AS num_readers, 0 AS flags
FROM pg_class c
JOIN rs.table_note t ON t.relid = c.oid
JOIN pg_database d ON d.datname = current_database()
CROSS JOIN LATERAL rs.figures(c.oid) f
CROSS JOIN LATERAL (SELECT rs.megabytes(c.oid) AS megabytes) m
CROSS JOIN LATERAL generate_series(0, m.megabytes - 1) b
WHERE c.relkind = 'r' AND f.physical > 0 AND rs.is_provisioned();

CREATE VIEW pg_catalog.svv_interleaved_columns AS
SELECT c.oid::bigint::int AS tbl, (a.attnum - 1)::int AS col,
       CASE WHEN f.physical > 0 THEN round(1 + 4.0 * f.unsorted / f.physical, 2) END::numeric(19,2)
              AS interleaved_skew,
       (SELECT max(v.ended) FROM rs.vacuum() v WHERE v.table_id = c.oid::bigint AND v.form = 'reindex'
              AND v.status = 'Finished')
           AS last_reindex
FROM pg_class c
JOIN rs.table_note t ON t.relid = c.oid AND t.sortstyle = 'interleaved'
CROSS JOIN LATERAL unnest(t.sortkeys) k(name)
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name
CROSS JOIN LATERAL rs.figures(c.oid) f;

CREATE VIEW pg_catalog.svv_alter_table_recommendations AS
SELECT r.type::varchar(16) AS type, current_database()::varchar(128) AS database, r.relid::bigint::int AS table_id,
       0 AS group_id, r.ddl::varchar(1024) AS ddl, left(r.auto_eligible::text, 1)::char(1) AS auto_eligible
FROM rs.recommendation r
JOIN rs.table_note t ON t.relid = r.relid AND r.about = rs.keys_of(t);

-- Columns as Redshift names their types.
CREATE VIEW rs.columns AS
SELECT n.nspname, c.oid AS relid, c.relname, c.relowner, a.attname, a.attnum, a.attnotnull,
       CASE a.atttypid WHEN 'jsonb'::regtype THEN 'super' WHEN 'bytea'::regtype THEN 'binary varying'
            ELSE format_type(a.atttypid, a.atttypmod) END AS type,
       CASE a.attidentity WHEN '' THEN pg_get_expr(d.adbin, d.adrelid)
            ELSE format('"%s"(%s, %s, %L::text)', CASE a.attidentity WHEN 'a' THEN 'identity' ELSE 'default_identity' END,
                        c.oid, a.attnum - 1, '1,1') END AS default_text,
       CASE WHEN t.relid IS NULL THEN NULL
            WHEN t.encodings ->> a.attname = 'raw' THEN 'none'
            WHEN t.encodings ? a.attname THEN t.encodings ->> a.attname
            WHEN a.attname = ANY (t.sortkeys) THEN 'none'
            WHEN a.atttypid IN ('boolean'::regtype, 'real'::regtype, 'float8'::regtype) THEN 'none'
            WHEN a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype, 'text'::regtype) THEN 'lzo'
            WHEN a.atttypid IN ('jsonb'::regtype, 'bytea'::regtype) THEN 'zstd'
            ELSE 'az64' END AS encoding,
       coalesce(t.distkey = a.attname, false) AS is_distkey,
       coalesce(array_position(t.sortkeys, a.attname::text), 0)
           * CASE WHEN t.sortstyle = 'interleaved' AND array_position(t.sortkeys, a.attname::text) % 2 = 0
               THEN -1 ELSE 1 END
           AS sortkey
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
LEFT JOIN rs.table_note t ON t.relid = c.oid
WHERE c.relkind IN ('r', 'v') AND n.nspname NOT IN ('rs', 'information_schema', 'pg_toast');
GRANT SELECT ON rs.columns TO PUBLIC;

-- Only tables of the search path, as the real one.
CREATE VIEW pg_catalog.pg_table_def AS
SELECT nspname AS schemaname, relname AS tablename, attname AS "column", type, encoding::char(32) AS encoding,
       is_distkey AS distkey, sortkey, attnotnull AS "notnull"
FROM rs.columns
WHERE pg_table_is_visible(relid) AND has_table_privilege(relid, 'SELECT') AND nspname <> 'pg_catalog'
       AND encoding IS NOT NULL;

CREATE VIEW pg_catalog.svv_tables AS
SELECT current_database()::varchar(128) AS table_catalog, n.nspname::varchar(128) AS table_schema,
       c.relname::varchar(128) AS table_name,
       CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'BASE TABLE' END::varchar(128) AS table_type,
       obj_description(c.oid, 'pg_class')::varchar(128) AS remarks
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'v') AND n.nspname NOT IN ('rs', 'information_schema', 'pg_toast')
       AND has_table_privilege(c.oid, 'SELECT');

CREATE VIEW pg_catalog.svv_columns AS
SELECT current_database()::varchar(128) AS table_catalog, nspname::varchar(128) AS table_schema,
       relname::varchar(128) AS table_name,
       attname::varchar(128) AS column_name, attnum::int AS ordinal_position, default_text::varchar AS column_default,
       CASE WHEN attnotnull THEN 'NO' ELSE 'YES' END::varchar(3) AS is_nullable, regexp_replace(type, '[(].*[)]',
              '')::varchar AS data_type,
       (regexp_match(type, 'char[a-z ]*[(]([0-9]+)'))[1]::int AS character_maximum_length,
       (regexp_match(type, 'numeric[(]([0-9]+)'))[1]::int AS numeric_precision,
       (regexp_match(type, 'numeric[(][0-9]+,([0-9]+)'))[1]::int AS numeric_scale, NULL::varchar AS remarks
FROM rs.columns WHERE has_table_privilege(relid, 'SELECT');

CREATE VIEW pg_catalog.svv_redshift_tables AS
SELECT table_catalog AS database_name, table_schema AS schema_name, table_name,
       CASE table_type WHEN 'VIEW' THEN 'VIEW' ELSE 'TABLE' END::varchar(128) AS table_type,
       NULL::varchar(128) AS table_acl, remarks,
       (SELECT r.rolname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              JOIN pg_roles r ON r.oid = c.relowner
        WHERE n.nspname = table_schema AND c.relname = table_name)::varchar(128) AS table_owner
FROM pg_catalog.svv_tables WHERE table_schema <> 'pg_catalog';

CREATE VIEW pg_catalog.svv_redshift_columns AS
SELECT current_database()::varchar(128) AS database_name, nspname::varchar(128) AS schema_name,
       relname::varchar(128) AS table_name,
       attname::varchar(128) AS column_name, attnum::int AS ordinal_position, type::varchar(32) AS data_type,
       default_text::varchar(4000) AS column_default, CASE WHEN attnotnull THEN 'NO' ELSE 'YES' END::varchar(3)
              AS is_nullable,
       encoding::varchar(128) AS encoding, is_distkey AS distkey, sortkey, NULL::varchar(128) AS column_acl,
              NULL::varchar(256) AS remarks
FROM rs.columns WHERE nspname <> 'pg_catalog' AND has_table_privilege(relid, 'SELECT');

-- Keys that nothing enforces, where PostgreSQL's own would be.
CREATE VIEW rs.table_constraints AS
SELECT current_database()::name AS constraint_catalog, n.nspname AS constraint_schema, k.name::name
       AS constraint_name,
       current_database()::name AS table_catalog, n.nspname AS table_schema, c.relname AS table_name, k.kind::text
              AS constraint_type,
       'NO'::text AS is_deferrable, 'NO'::text AS initially_deferred
FROM rs.table_key k JOIN pg_class c ON c.oid = k.relid JOIN pg_namespace n ON n.oid = c.relnamespace;
CREATE VIEW rs.key_column_usage AS
SELECT current_database()::name AS constraint_catalog, n.nspname AS constraint_schema, k.name::name
       AS constraint_name,
       current_database()::name AS table_catalog, n.nspname AS table_schema, c.relname AS table_name, u.name::name
              AS column_name,
       u.place::int AS ordinal_position
FROM rs.table_key k JOIN pg_class c ON c.oid = k.relid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL unnest(k.columns) WITH ORDINALITY u(name, place);

GRANT SELECT ON pg_catalog.pg_table_def, pg_catalog.svv_tables, pg_catalog.svv_columns,
       pg_catalog.svv_redshift_tables,
    pg_catalog.svv_redshift_columns, rs.table_constraints, rs.key_column_usage, pg_catalog.stv_slices TO PUBLIC;
