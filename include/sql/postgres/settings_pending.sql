-- Purpose:  settings that were changed and wait for a restart.
-- Source:   pg_settings.pending_restart.
-- Rights:   CONNECT; pg_monitor shows the files as well.
-- Versions: 14 to 18.
select name, setting as current, boot_val as built_in, sourcefile as file, sourceline as line
  from pg_settings
 where pending_restart
 order by name;
