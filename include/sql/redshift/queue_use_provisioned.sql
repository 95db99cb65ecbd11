-- Use of each user queue since a moment: slots, statements, waiting and running in seconds, memory at its peak, CPU seconds.
-- Source: the guide's "Check cluster utilization". Changed: STL_WLM_QUERY has no num_query_tasks, query_working_mem and
-- query_cpu_time; slots and memory of a queue are in STV_WLM_SERVICE_CLASS_CONFIG, CPU is in STL_QUERY_METRICS. `> 4` takes in the
-- queue of superusers (5) and of the service; user queues are 6-13 (manual), 14 (short queries) and 100-107 (automatic).
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned only; empty on serverless.
select w.service_class, trim(c.name), c.num_query_tasks, count(*), sum(w.total_queue_time) / 1000000.0,
       max(w.total_queue_time) / 1000000.0, sum(w.total_exec_time) / 1000000.0, max(w.est_peak_mem), sum(m.cpu_time) / 1000000.0
from stl_wlm_query w
left join stv_wlm_service_class_config c on c.service_class = w.service_class
left join stl_query_metrics m on m.query = w.query and m.segment = -1 and m.step_type = -1
where (w.service_class between 6 and 14 or w.service_class between 100 and 107) and w.queue_start_time >= %s
group by w.service_class, trim(c.name), c.num_query_tasks
order by w.service_class
