-- What a serverless workgroup used since a moment: RPU seconds, largest capacity in RPU, stored megabytes at last.
-- Source: documentation of SYS_SERVERLESS_USAGE.
-- Rights: superuser, or sys:monitor. Serverless only.
select sum(compute_seconds), max(compute_capacity), max(data_storage)
from sys_serverless_usage
where start_time >= %s
