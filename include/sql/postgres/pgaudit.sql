-- Purpose:  is pgAudit installed on the server, loaded, and created in this database?
-- Source:   pg_available_extensions, shared_preload_libraries, pg_extension.
-- Rights:   pg_monitor, for shared_preload_libraries.
-- Versions: 14 to 18.
select exists (select from pg_available_extensions where name = 'pgaudit') as installed,
       'pgaudit' = any (regexp_split_to_array(current_setting('shared_preload_libraries'), '\s*,\s*')) as loaded,
       (select extversion from pg_extension where extname = 'pgaudit') as version;
