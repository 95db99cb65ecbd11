-- Purpose:  settings (%s: their names) and which of them a role or a database has otherwise.
-- Source:   pg_settings, pg_db_role_setting. A setting of an extension that is not loaded has no row.
-- Rights:   pg_monitor, for settings that only superusers see.
-- Versions: 14 to 18.
with wanted as (select lower(name) as name from unnest(%s::text[]) as given(name))
select w.name,
       s.setting as value,
       s.name is not null as known,
       coalesce((select jsonb_agg(jsonb_build_object('role', r.rolname, 'database', d.datname,
                                                     'value', substr(item, strpos(item, '=') + 1)) order by item)
                   from pg_db_role_setting o
                  cross join lateral unnest(o.setconfig) as item
                   left join pg_roles r on r.oid = o.setrole
                   left join pg_database d on d.oid = o.setdatabase
                  where lower(split_part(item, '=', 1)) = w.name), '[]') as elsewhere
  from wanted w
  left join pg_settings s on lower(s.name) = w.name
 order by w.name;
