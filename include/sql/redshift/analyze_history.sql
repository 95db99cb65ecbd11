-- What ANALYZE did to a table since a moment, without the automatic ones.
-- Source: documentation of SYS_ANALYZE_HISTORY (STL_ANALYZE is empty on serverless).
-- Rights: sys:monitor or superuser. Provisioned and serverless.
select trim(status), start_time, end_time, rows
from sys_analyze_history
where table_id = %s and start_time >= %s and is_automatic = 'f'
order by start_time
