-- What the stand-in keeps beside the tables of a database. Run by the administrator, once for each database.
CREATE SCHEMA IF NOT EXISTS rs;
GRANT USAGE ON SCHEMA rs TO PUBLIC;
GRANT ALL ON SCHEMA public TO PUBLIC;

-- What Redshift knows of a table and PostgreSQL does not.
CREATE TABLE rs.table_note (
    relid oid PRIMARY KEY,
    diststyle text NOT NULL DEFAULT 'auto',
    distkey text,
    sortstyle text NOT NULL DEFAULT 'auto',
    sortkeys text[] NOT NULL DEFAULT '{}',
    encodings jsonb NOT NULL DEFAULT '{}',
    auto_encode boolean NOT NULL DEFAULT true,
    created timestamp NOT NULL DEFAULT (clock_timestamp() AT TIME ZONE 'UTC')
);
-- What the Advisor recommends; a test says it by `rs.recommend`. It is gone when the table's keys are not as they were.
CREATE TABLE rs.recommendation (
    relid oid NOT NULL, type text NOT NULL, ddl text NOT NULL, auto_eligible boolean NOT NULL, about text NOT NULL
);
CREATE FUNCTION rs.keys_of(note rs.table_note) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_array(note.diststyle, note.distkey, note.sortstyle, note.sortkeys)::text
$$;
CREATE FUNCTION rs.recommend(target regclass, type text, ddl text, auto_eligible boolean) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO rs.recommendation
    SELECT target, $2, $3, $4, rs.keys_of(t) FROM rs.table_note t WHERE t.relid = target
$$;
CREATE TABLE rs.table_key (
    relid oid NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    columns text[] NOT NULL,
    referenced text
);

-- How the rows of a table changed: only ever added to, so that no transaction waits for another or fails because
-- of it, and undone with the transaction that did it. A table's figures are the sums.
CREATE TABLE rs.change (
    relid oid NOT NULL,
    physical bigint NOT NULL DEFAULT 0,   -- rows stored, those marked as deleted too
    deleted bigint NOT NULL DEFAULT 0,    -- rows marked as deleted
    unsorted bigint NOT NULL DEFAULT 0,   -- rows outside the sorted region
    modified bigint NOT NULL DEFAULT 0,   -- rows changed since the last ANALYZE
    analyzed bigint                       -- rows that ANALYZE found, as a difference to before; null = no ANALYZE
);
CREATE INDEX change_of ON rs.change (relid);

-- Users, groups and roles are roles of PostgreSQL; which is which, and what they may beyond PostgreSQL's privileges.
CREATE TABLE rs.principal (id oid PRIMARY KEY, kind text NOT NULL, sees_syslog boolean NOT NULL DEFAULT false);
CREATE TABLE rs.privilege (relid oid NOT NULL, grantee oid NOT NULL, privilege text NOT NULL);
CREATE TABLE rs.system_privilege (grantee oid NOT NULL, privilege text NOT NULL);
CREATE VIEW rs.system_privileges AS
    SELECT s.grantee, s.privilege FROM rs.system_privilege s JOIN pg_roles r ON r.oid = s.grantee;
GRANT SELECT ON rs.system_privileges TO PUBLIC;
-- What a user's new tables are granted with, where PostgreSQL has no default privilege for it; a null schema = any.
CREATE TABLE rs.default_privilege (owner oid NOT NULL, schema oid, grantee oid NOT NULL, privilege text NOT NULL);

-- The roles that Redshift has from the beginning. They are of PostgreSQL's server, so another database may have made them.
DO $do$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY '{sys:monitor,sys:operator,sys:dba,sys:secadmin,sys:superuser}'::text[] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
        INSERT INTO rs.principal (id, kind) VALUES (quote_ident(role)::regrole, 'role');
        INSERT INTO rs.system_privilege SELECT quote_ident(role)::regrole, p.privilege
        FROM unnest('{ACCESS SYSTEM TABLE,ACCESS CATALOG}'::text[]) p(privilege)
        UNION ALL
        SELECT quote_ident(role)::regrole, p.privilege FROM unnest('{VACUUM,ANALYZE,CANCEL}'::text[]) p(privilege)
        WHERE role IN ('sys:operator', 'sys:dba', 'sys:superuser');
    END LOOP;
END $do$;

-- Whether a user sees what others did: superusers, SYSLOG ACCESS UNRESTRICTED, and roles such as sys:monitor.
CREATE FUNCTION rs.sees_all() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = session_user)
        OR EXISTS (SELECT FROM rs.principal p JOIN pg_roles r ON r.oid = p.id WHERE r.rolname = session_user AND p.sees_syslog)
        OR EXISTS (SELECT FROM rs.system_privileges s
                   WHERE s.privilege = 'ACCESS SYSTEM TABLE' AND pg_has_role(session_user, s.grantee, 'MEMBER'))
$$;
