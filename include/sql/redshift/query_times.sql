-- How long SELECT statements took since a moment, waiting included, in seconds: count, 95th percentile, longest, and
-- how many were longer than a limit (given in seconds). The service's own user (1) is left out.
-- Source: documentation of SYS_QUERY_HISTORY.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned and serverless.
select count(*), coalesce(percentile_cont(0.95) within group (order by elapsed_time), 0) / 1000000.0,
       coalesce(max(elapsed_time), 0) / 1000000.0,
       coalesce(sum(case when elapsed_time > %s * 1000000.0 then 1 else 0 end), 0)
from sys_query_history
where start_time >= %s and user_id > 1 and query_type = 'SELECT'
