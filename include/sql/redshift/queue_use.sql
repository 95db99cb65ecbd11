-- Use of each queue (service class) since a moment: statements, waiting and running in seconds.
-- Source: the guide's "Check cluster utilization", for serverless and provisioned; queue_use_provisioned adds slots
-- and memory.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser.
select service_class_id, trim(service_class_name), count(*), sum(queue_time) / 1000000.0, max(queue_time) / 1000000.0,
       sum(execution_time) / 1000000.0
from sys_query_history
where start_time >= %s and user_id > 1 and service_class_id is not null
group by service_class_id, trim(service_class_name)
order by service_class_id
