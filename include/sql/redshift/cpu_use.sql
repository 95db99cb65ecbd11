-- CPU that queries of user queues used, by hour, in percent of what the slices have: less than CloudWatch's CPUUtilization, as
-- the work of the leader and of the service is not in it.
-- Source: documentation of STL_QUERY_METRICS (cpu_time in microseconds, over all slices; one row a query at segment -1).
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned only; empty on serverless.
select date_trunc('hour', m.starttime), 100.0 * sum(m.cpu_time) / 1000000.0 / (3600.0 * max(s.slices))
from stl_query_metrics m
cross join (select count(*) as slices from stv_slices) s
where m.segment = -1 and m.step_type = -1 and m.starttime >= %s
group by date_trunc('hour', m.starttime)
order by 2 desc
