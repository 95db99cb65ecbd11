-- Purpose:  extensions that this role can make in a database of its own.
-- Source:   pg_available_extension_versions: trusted ones are for whoever owns the database.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select distinct name
  from pg_available_extension_versions
 where not superuser or trusted or (select rolsuper from pg_roles where rolname = current_user)
 order by 1;
