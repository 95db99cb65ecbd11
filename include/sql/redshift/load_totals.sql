-- Loads since a moment: all, aborted, those that left lines out, loaded rows, lines left out.
-- Source: documentation of SYS_LOAD_HISTORY.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned and serverless.
select count(*), coalesce(sum(case when status = 'aborted' then 1 else 0 end), 0),
       coalesce(sum(case when status <> 'aborted' and error_count > 0 then 1 else 0 end), 0),
       coalesce(sum(loaded_rows), 0), coalesce(sum(error_count), 0)
from sys_load_history
where start_time >= %s
