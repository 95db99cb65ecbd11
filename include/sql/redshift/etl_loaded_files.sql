-- Files below a prefix that successful loads of a table have read.
-- Source: own; documentation of SYS_LOAD_DETAIL.
-- Values: moment (twice), length of the prefix, prefix, table.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser, else only one's own. Provisioned and serverless.
select distinct trim(d.file_name)
from sys_load_detail d
join sys_load_history h on h.query_id = d.query_id
where d.start_time >= %s and h.start_time >= %s and left(d.file_name, %s) = %s
  and trim(h.table_name) = %s and trim(h.status) = 'completed'
