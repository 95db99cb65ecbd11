-- What VACUUM did to a table since a moment, without the automatic ones.
-- Source: documentation of SYS_VACUUM_HISTORY (STL_VACUUM is empty on serverless).
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser, else only one's own. Provisioned and serverless.
select trim(vacuum_type), trim(status), start_time, end_time, rows_before_vacuum, reclaimable_rows, reclaimed_rows,
       sortedrows_before_vacuum, sortedrows_after_vacuum
from sys_vacuum_history
where table_id = %s and start_time >= %s and not is_automatic
order by start_time
