-- Why lines of files below a prefix were not loaded, since a moment: column and error, how often, one place.
-- Source: documentation of SYS_LOAD_ERROR_DETAIL (STL_LOAD_ERRORS is empty on serverless).
-- Values: moment, length of the prefix, prefix.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned and serverless.
select trim(column_name), left(trim(error_message), 200), count(*), max(trim(file_name)), max(line_number)
from sys_load_error_detail
where start_time >= %s and left(file_name, %s) = %s
group by trim(column_name), left(trim(error_message), 200)
order by count(*) desc
limit 10
