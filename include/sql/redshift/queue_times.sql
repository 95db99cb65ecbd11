-- How long statements waited in a queue since a moment, in seconds: count, 95th percentile, longest, and how many
-- waited longer than a limit (given in seconds). Apart from query_times: a statement of Redshift can order percentiles
-- by one column only.
-- Source: documentation of SYS_QUERY_HISTORY.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned and serverless.
select count(*), coalesce(percentile_cont(0.95) within group (order by queue_time), 0) / 1000000.0,
       coalesce(max(queue_time), 0) / 1000000.0,
       coalesce(sum(case when queue_time > %s * 1000000.0 then 1 else 0 end), 0)
from sys_query_history
where start_time >= %s and user_id > 1
