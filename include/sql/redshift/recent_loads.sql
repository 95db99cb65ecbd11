-- Loads since a moment, the newest first.
-- Source: the guide's "Check recent data loads". Changed: STL_LOAD_COMMITS has no rows_loaded, its `errors` is
-- internal, and lines_scanned is not what was loaded when MAXERROR let lines go; the view is empty on serverless.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser, else only one's own. Provisioned and serverless.
select trim(data_source), start_time, trim(table_name), trim(status), loaded_rows, error_count, source_file_count
from sys_load_history
where start_time >= %s
order by start_time desc
limit 100
