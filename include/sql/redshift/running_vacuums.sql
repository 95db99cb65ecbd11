-- VACUUM statements that run at this moment; a cluster takes one at a time.
-- Source: documentation of SYS_QUERY_HISTORY.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser, to see those of others. Provisioned and serverless.
select session_id, query_id, user_id, start_time, trim(query_text)
from sys_query_history
where status in ('planning', 'queued', 'running', 'returning') and lower(left(ltrim(query_text), 6)) = 'vacuum'
order by start_time
