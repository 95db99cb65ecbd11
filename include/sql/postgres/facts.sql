-- Purpose:  who asks, and what is asked: version, role, recovery, start.
-- Source:   system information functions.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select current_setting('server_version') as version,
       current_user as role,
       pg_has_role(current_user, 'pg_monitor', 'usage') as monitor,
       pg_is_in_recovery() as standby,
       pg_postmaster_start_time() as started_at,
       current_setting('max_connections')::int as max_connections,
       (select extversion from pg_extension where extname = 'pg_stat_statements') as statements_version,
       (select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace
         where e.extname = 'pg_stat_statements') as statements_schema;
