-- Functions of the stand-in itself.
CREATE FUNCTION rs.figures(relid oid, OUT physical bigint, OUT deleted bigint, OUT unsorted bigint,
                           OUT modified bigint, OUT analyzed bigint)
LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT greatest(sum(c.physical), 0), greatest(sum(c.deleted), 0), greatest(sum(c.unsorted), 0),
           greatest(sum(c.modified), 0), sum(c.analyzed)
    FROM rs.change c WHERE c.relid = $1
$$;

-- Notes that rows of a table changed; the name is resolved as the session would.
CREATE FUNCTION rs.changed(name text, how text, rows bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    target oid := to_regclass(name);
    known rs.table_note;
    before record;
BEGIN
    IF (SELECT relkind FROM pg_class WHERE oid = target) = 'v' THEN  -- PostgreSQL would write through it
        RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = 'cannot change a view';
    END IF;
    IF target IS NULL OR (rows = 0 AND how <> 'truncate') THEN
        RETURN;
    END IF;
    SELECT * INTO known FROM rs.table_note n WHERE n.relid = target;
    IF how IN ('insert', 'load', 'fill') THEN
        INSERT INTO rs.change (relid, physical, unsorted, modified) VALUES (target, rows,
            CASE WHEN how <> 'insert' AND coalesce((rs.figures(target)).physical, 0) = 0 THEN 0 ELSE rows END, rows);
    ELSIF how = 'update' THEN
        INSERT INTO rs.change (relid, physical, deleted, unsorted, modified) VALUES (target, rows, rows, rows, rows);
    ELSIF how = 'delete' THEN
        INSERT INTO rs.change (relid, deleted, modified) VALUES (target, rows, rows);
    ELSIF how = 'truncate' THEN
        SELECT * INTO before FROM rs.figures(target);
        INSERT INTO rs.change (relid, physical, deleted, unsorted, modified) VALUES (target,
            -coalesce(before.physical, 0), -coalesce(before.deleted, 0), -coalesce(before.unsorted, 0),
            coalesce(before.physical - before.deleted, 0));
    END IF;
END $$;

-- Notes what CREATE TABLE and ALTER TABLE said of keys and encodings.
CREATE FUNCTION rs.note_table(name text, said text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    target oid := to_regclass(name);
    notes jsonb := said::jsonb;
    pattern rs.table_note;
    key jsonb;
    place int := 0;
BEGIN
    IF notes ? 'like' THEN
        SELECT * INTO pattern FROM rs.table_note n WHERE n.relid = to_regclass(notes ->> 'like');
    END IF;
    INSERT INTO rs.table_note (relid, diststyle, distkey, sortstyle, sortkeys, encodings)
    VALUES (target, coalesce(pattern.diststyle, 'auto'), pattern.distkey, coalesce(pattern.sortstyle, 'auto'),
            coalesce(pattern.sortkeys, '{}'), coalesce(pattern.encodings, '{}'))
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        INSERT INTO rs.privilege
        SELECT c.oid, d.grantee, d.privilege FROM pg_class c
        JOIN rs.default_privilege d ON d.owner = c.relowner AND coalesce(d.schema, c.relnamespace) = c.relnamespace
        WHERE c.oid = target;
    END IF;
    UPDATE rs.table_note n SET
        diststyle = coalesce(notes ->> 'diststyle', n.diststyle),
        distkey = CASE WHEN notes ? 'distkey' THEN nullif(notes ->> 'distkey', '') ELSE n.distkey END,
        sortstyle = coalesce(notes ->> 'sortstyle', n.sortstyle),
        sortkeys = CASE WHEN notes ? 'sortkeys'
                        THEN ARRAY(SELECT jsonb_array_elements_text(notes -> 'sortkeys')) ELSE n.sortkeys END,
        encodings = n.encodings || coalesce(notes -> 'encodings', '{}'),
        auto_encode = coalesce((notes ->> 'auto_encode')::boolean, n.auto_encode)
    WHERE n.relid = target;
    IF jsonb_array_length(notes -> 'renamed') = 2 THEN
        UPDATE rs.table_note n SET
            distkey = CASE WHEN n.distkey = notes -> 'renamed' ->> 0 THEN notes -> 'renamed' ->> 1 ELSE n.distkey END,
            sortkeys = array_replace(n.sortkeys, notes -> 'renamed' ->> 0, notes -> 'renamed' ->> 1)
        WHERE n.relid = target;
    END IF;
    FOR key IN SELECT jsonb_array_elements(notes -> 'keys') LOOP
        place := place + 1;
        INSERT INTO rs.table_key VALUES (target,
            coalesce(nullif(key ->> 'name', ''), (SELECT relname FROM pg_class WHERE oid = target) ||
                CASE key ->> 'kind' WHEN 'PRIMARY KEY' THEN '_pkey' ELSE '_key' || place END),
            key ->> 'kind', ARRAY(SELECT jsonb_array_elements_text(key -> 'columns')), key ->> 'references');
    END LOOP;
    IF notes ? 'dropped_key' THEN
        DELETE FROM rs.table_key k WHERE k.relid = target AND k.name = notes ->> 'dropped_key';
    END IF;
END $$;

-- ALTER COLUMN ... TYPE VARCHAR(n): the check of the length in bytes goes with it.
CREATE FUNCTION rs.retype(name text, col text, size int) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    target regclass := name;
    old text;
BEGIN
    FOR old IN SELECT conname FROM pg_constraint
               WHERE conrelid = target AND left(conname, 9) = 'rs_bytes_'
               AND substr(conname, strpos(substr(conname, 10), '_') + 10) = col LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', target, old);
    END LOOP;
    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I TYPE varchar(%s)', target, col, size);
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (octet_length(%I) <= %s)', target,
                   left('rs_bytes_' || size || '_' || col, 60), col, size);
END $$;

CREATE FUNCTION rs.is_superuser() RETURNS boolean
LANGUAGE sql STABLE AS $$ SELECT rolsuper FROM pg_roles WHERE rolname = current_user $$;

CREATE FUNCTION rs.cancel(pid int) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_cancel_backend(pid) THEN
        RAISE EXCEPTION 'Cannot cancel non-existent or invalid PID %', pid;
    END IF;
END $$;

-- Size as Redshift counts it: blocks of one megabyte.
CREATE FUNCTION rs.megabytes(relid oid) RETURNS bigint
LANGUAGE sql STABLE AS $$ SELECT ceil(pg_table_size($1) / 1048576.0)::bigint $$;

-- Whether a role of the current user has a system privilege.
CREATE FUNCTION rs.has_system(wanted text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM rs.system_privileges s WHERE s.privilege = wanted AND pg_has_role(s.grantee, 'MEMBER'))
$$;

-- What VACUUM and ANALYZE look at.
CREATE VIEW rs.maintained AS
    SELECT c.oid AS relid, n.nspname, c.relname,
           pg_has_role(c.relowner, 'USAGE') OR pg_has_role(d.datdba, 'USAGE') AS is_own,
           rs.has_system('VACUUM') AS may_vacuum, rs.has_system('ANALYZE') AS may_analyze,
           t.sortstyle, coalesce(cardinality(t.sortkeys), 0), t.diststyle,
           f.physical, f.deleted, f.unsorted, f.modified, f.analyzed, rs.megabytes(c.oid)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_database d ON d.datname = current_database()
    LEFT JOIN rs.table_note t ON t.relid = c.oid
    CROSS JOIN LATERAL rs.figures(c.oid) f
    WHERE c.relkind = 'r' AND n.nspname NOT IN ('rs', 'pg_catalog', 'information_schema', 'pg_toast');
GRANT SELECT ON rs.maintained TO PUBLIC;

-- Whether a transaction is open that might still see rows deleted since it began.
CREATE FUNCTION rs.has_older_transactions() RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
    SELECT EXISTS (SELECT FROM pg_stat_activity
                   WHERE datname = current_database() AND backend_type = 'client backend'
                     AND pid <> pg_backend_pid() AND application_name <> 'rs'
                     AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL))
$$;

CREATE FUNCTION rs.vacuumed(relid oid, rows bigint, sorts boolean, part float8) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    now record;
BEGIN
    SELECT * INTO now FROM rs.figures(relid);
    INSERT INTO rs.change (relid, physical, deleted, unsorted) VALUES (relid, -rows, -rows,
        CASE WHEN sorts THEN -ceil(now.unsorted * part)
            ELSE -floor(now.unsorted * rows::numeric / greatest(now.physical, 1)) END);
END $$;

CREATE FUNCTION rs.analyzed(relid oid, rows bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    now record;
BEGIN
    SELECT * INTO now FROM rs.figures(relid);
    INSERT INTO rs.change (relid, modified, analyzed)
    VALUES (relid, -coalesce(now.modified, 0), rows - coalesce(now.analyzed, 0));
END $$;

CREATE FUNCTION rs.compact(target oid) RETURNS void
LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM rs.change c WHERE c.relid = target RETURNING *)
    INSERT INTO rs.change SELECT target, sum(physical), sum(deleted), sum(unsorted), sum(modified), sum(analyzed)
    FROM gone HAVING count(*) > 0
$$;

CREATE FUNCTION rs.diststyle_text(style text, key text, rows bigint) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE style WHEN 'key' THEN 'KEY(' || key || ')' WHEN 'even' THEN 'EVEN' WHEN 'all' THEN 'ALL'
                      ELSE CASE WHEN rows > 1000000 THEN 'AUTO(EVEN)' ELSE 'AUTO(ALL)' END END
$$;

-- Rows of the slice with most over those of the slice with fewest, were the table spread over four slices by its key.
CREATE FUNCTION rs.row_skew(relid oid, key text) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    found numeric;
BEGIN
    EXECUTE format('SELECT coalesce(max(n)::numeric / nullif(min(n), 0), 100) FROM (SELECT s, count(x.k) AS n
                    FROM generate_series(0, 3) s LEFT JOIN (SELECT %I::text AS k FROM %s) x
                    ON abs(hashtext(x.k)::bigint) %% 4 = s GROUP BY s) q', key, relid::regclass) INTO found;
    RETURN found;
END $$;

-- Width of the widest column that is no sort key over that of the first sort key.
CREATE FUNCTION rs.sort_skew(relid oid, key text) RETURNS numeric
LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT coalesce(max(s.avg_width) FILTER (WHERE s.attname <> key)::numeric
                    / nullif(max(s.avg_width) FILTER (WHERE s.attname = key), 0), 1)
    FROM pg_stats s JOIN pg_class c ON c.relname = s.tablename
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = s.schemaname WHERE c.oid = relid
$$;

-- What sorting would gain at most: the unsorted share, of which only scans with a range on the sort key profit.
CREATE FUNCTION rs.sort_benefit(relid oid, unsorted bigint, physical bigint) RETURNS numeric
LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT 100.0 * unsorted / greatest(physical, 1)
           * coalesce((SELECT avg(is_range::int) FROM rs.j_scan s WHERE s.table_id = relid::bigint), 1)
$$;

-- Which of Redshift's kinds a role of PostgreSQL is here.
CREATE FUNCTION rs.note_principal(name text, kind text) RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO rs.principal (id, kind) SELECT oid, kind FROM pg_roles WHERE rolname = name
$$;

CREATE FUNCTION rs.note_syslog(name text, sees boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'permission denied to alter user';
    END IF;
    INSERT INTO rs.principal SELECT oid, 'user', sees FROM pg_roles WHERE rolname = name
    ON CONFLICT (id) DO UPDATE SET sees_syslog = sees;
END $$;

CREATE FUNCTION rs.note_default(owner text, schema text, grantee text, privilege text, is_given boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    maker oid := coalesce(owner, quote_ident(session_user))::regrole;
    place oid := schema::regnamespace;
    who oid := coalesce(grantee::regrole::oid, 0);
BEGIN
    IF NOT pg_has_role(session_user, maker, 'MEMBER') THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'permission denied to change default privileges';
    END IF;
    DELETE FROM rs.default_privilege d WHERE d.owner = maker AND d.schema IS NOT DISTINCT FROM place
        AND d.grantee = who AND d.privilege = note_default.privilege;
    IF is_given THEN
        INSERT INTO rs.default_privilege VALUES (maker, place, who, note_default.privilege);
    END IF;
END $$;

-- A privilege on a table that PostgreSQL does not know; `schema.*` means all tables there, a null grantee PUBLIC.
CREATE FUNCTION rs.note_privilege(target text, grantee text, privilege text, is_given boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    who oid := coalesce(grantee::regrole::oid, 0);
    found record;
BEGIN
    FOR found IN
        SELECT c.oid, c.relowner, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND CASE WHEN right(target, 2) = '.*' THEN n.oid = left(target, -2)::regnamespace
                                       ELSE c.oid = target::regclass END
    LOOP
        IF NOT pg_has_role(session_user, found.relowner, 'USAGE') THEN
            RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('permission denied for relation %s',
                found.relname);
        END IF;
        DELETE FROM rs.privilege p WHERE p.relid = found.oid AND p.grantee = who
            AND p.privilege = note_privilege.privilege;
        IF is_given THEN
            INSERT INTO rs.privilege VALUES (found.oid, who, note_privilege.privilege);
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION rs.note_system(grantee text, privilege text, is_given boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'permission denied to grant system privileges';
    END IF;
    DELETE FROM rs.system_privilege s WHERE s.grantee = note_system.grantee::regrole
        AND s.privilege = note_system.privilege;
    IF is_given THEN
        INSERT INTO rs.system_privilege VALUES (note_system.grantee::regrole, note_system.privilege);
    END IF;
END $$;

-- The owner may, and who was granted DROP.
CREATE FUNCTION rs.drop_table(name text, is_optional boolean, is_cascaded boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    target oid := to_regclass(name);
    found record;
BEGIN
    IF target IS NULL AND is_optional THEN
        RETURN;
    END IF;
    SELECT relowner, relkind, relname INTO found FROM pg_class WHERE oid = target;
    IF target IS NULL OR found.relkind <> 'r' THEN
        RAISE EXCEPTION USING ERRCODE = '42P01', MESSAGE = format('Table "%s" does not exist', replace(name, '"',
            ''));
    END IF;
    IF NOT (pg_has_role(session_user, found.relowner, 'USAGE') OR EXISTS (
        SELECT FROM rs.privilege p WHERE p.relid = target AND p.privilege = 'DROP'
        AND (p.grantee = 0 OR pg_has_role(session_user, p.grantee, 'MEMBER')))) THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('must be owner of relation %s', found.relname);
    END IF;
    EXECUTE format('DROP TABLE %s %s', target::regclass, CASE WHEN is_cascaded THEN 'CASCADE' END);
END $$;

CREATE FUNCTION rs.isolation() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE current_setting('transaction_isolation') WHEN 'serializable' THEN 'Serializable'
        ELSE 'Snapshot Isolation' END
$$;

-- ANALYZE COMPRESSION: the encoding that Redshift would choose for each column's type.
CREATE FUNCTION rs.analyze_compression(name text)
RETURNS TABLE ("table" text, "column" text, encoding text, est_reduction_pct numeric(5,2))
LANGUAGE sql STABLE AS $$
    SELECT c.relname::text, c.attname::text,
           CASE WHEN c.sortkey <> 0 THEN 'raw' WHEN c.type LIKE 'char%' THEN 'zstd' WHEN c.encoding = 'none'
               THEN 'raw'
                ELSE c.encoding END,
           CASE WHEN c.sortkey <> 0 OR c.encoding = 'none' THEN 0 ELSE 30 END::numeric(5,2)
    FROM rs.columns c JOIN rs.table_note t ON t.relid = c.relid
    WHERE name = '' OR c.relid = name::regclass
    ORDER BY c.relid, c.attnum
$$;
