-- What the planner and executor remarked about tables since a moment: missing statistics, filters that no sort key
-- serves, rows sent across the network.
-- Source: documentation of SYS_QUERY_DETAIL (STL_ALERT_EVENT_LOG is empty on serverless).
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned and serverless.
select table_id, trim(alert), count(distinct query_id)
from sys_query_detail
where start_time >= %s and user_id > 1 and table_id > 0 and trim(alert) <> ''
group by table_id, trim(alert)
order by 3 desc
