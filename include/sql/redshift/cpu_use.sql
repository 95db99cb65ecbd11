-- CPU that statements of user queues used, by hour, in percent of what the slices have. Less than CloudWatch's
-- CPUUtilization: the work of the leader and of the service is not in it.
-- Source: documentation of SVL_QUERY_METRICS_SUMMARY (query_cpu_time in seconds, over all slices) and STL_WLM_QUERY.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned only; empty on serverless.
select date_trunc('hour', w.exec_start_time), 100.0 * sum(m.query_cpu_time) / (3600.0 * max(s.slices))
from svl_query_metrics_summary m
join stl_wlm_query w on w.query = m.query
cross join (select count(*) as slices from stv_slices) s
where w.exec_start_time >= %s
group by date_trunc('hour', w.exec_start_time)
order by 2 desc
