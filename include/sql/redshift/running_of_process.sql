-- Statements of another process that run at this moment: whether what lost its connection goes on.
-- Source: documentation of SYS_QUERY_HISTORY.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser, to see those of others. Provisioned and serverless.
select start_time
from sys_query_history
where status in ('planning', 'queued', 'running', 'returning') and session_id = %s and session_id <> pg_backend_pid()
order by start_time
