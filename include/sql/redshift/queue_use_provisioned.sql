-- Use of each user queue since a moment: slots, statements, waiting and running in seconds, largest peak of memory in
-- bytes, CPU in seconds.
-- Source: the guide's "Check cluster utilization". Changed: STL_WLM_QUERY has no num_query_tasks, query_working_mem
-- and query_cpu_time: slots and memory of a queue are in STV_WLM_SERVICE_CLASS_CONFIG, CPU is in
-- SVL_QUERY_METRICS_SUMMARY. `> 4` takes in the queue of superusers (5); user queues are 6-13 (manual), 14 (short
-- queries) and 100-107 (automatic).
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned only; empty on serverless.
select w.service_class, trim(c.name), c.num_query_tasks, count(*), sum(w.total_queue_time) / 1000000.0,
       max(w.total_queue_time) / 1000000.0, sum(w.total_exec_time) / 1000000.0, max(w.est_peak_mem),
       sum(m.query_cpu_time)
from stl_wlm_query w
left join stv_wlm_service_class_config c on c.service_class = w.service_class
left join svl_query_metrics_summary m on m.query = w.query
where (w.service_class between 6 and 14 or w.service_class between 100 and 107) and w.queue_start_time >= %s
group by w.service_class, trim(c.name), c.num_query_tasks
order by w.service_class
