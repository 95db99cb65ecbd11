-- Files below a prefix that more than one successful load of a table has read, with how many did.
-- Source: own; documentation of SYS_LOAD_DETAIL. COPY loads a file again without a word.
-- Values: moment (twice), length of the prefix, prefix, table.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser, else only one's own. Provisioned and serverless.
select trim(d.file_name), count(distinct d.query_id), max(d.lines_scanned)
from sys_load_detail d
join sys_load_history h on h.query_id = d.query_id
where d.start_time >= %s and h.start_time >= %s and left(d.file_name, %s) = %s
  and trim(h.table_name) = %s and trim(h.status) = 'completed'
group by trim(d.file_name)
having count(distinct d.query_id) > 1
order by trim(d.file_name)
limit 50
