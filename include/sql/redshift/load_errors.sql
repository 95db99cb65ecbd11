-- Why lines were not loaded since a moment: table, column and error with their number, and one place where it happened.
-- Source: documentation of SYS_LOAD_ERROR_DETAIL (STL_LOAD_ERRORS is empty on serverless).
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned and serverless.
select trim(h.table_name), trim(e.column_name), left(trim(e.error_message), 200), count(*), max(trim(e.file_name)),
       max(e.line_number)
from sys_load_error_detail e
left join sys_load_history h on h.query_id = e.query_id
where e.start_time >= %s
group by trim(h.table_name), trim(e.column_name), left(trim(e.error_message), 200)
order by count(*) desc
limit 10
