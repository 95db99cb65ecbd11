-- System views that only superusers see otherwise are open to the roles that may access system tables.
DO $do$
DECLARE
    found record;
    role text;
BEGIN
    FOR found IN SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'pg_catalog'::regnamespace
                 AND relname ~ '^(stl|stv|svl|svv|sys)_' LOOP
        FOREACH role IN ARRAY '{sys:monitor,sys:operator,sys:dba,sys:secadmin,sys:superuser}'::text[] LOOP
            EXECUTE format('GRANT SELECT ON pg_catalog.%I TO %I', found.relname, role);
        END LOOP;
    END LOOP;
END $do$;
