-- Statements since a moment: all, failed, cancelled.
-- Source: documentation of SYS_QUERY_HISTORY.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned and serverless.
select count(*), coalesce(sum(case when status = 'failed' then 1 else 0 end), 0),
       coalesce(sum(case when status = 'canceled' then 1 else 0 end), 0)
from sys_query_history
where start_time >= %s and user_id > 1
