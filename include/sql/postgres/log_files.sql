-- Purpose:  files of the log directory, the oldest first.
-- Source:   pg_ls_logdir.
-- Rights:   pg_monitor. Fails where no log collector runs, and so no directory was made.
-- Versions: 14 to 18.
select name, size, modification as modified from pg_ls_logdir() order by modification, name;
