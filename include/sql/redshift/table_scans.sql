-- Which tables statements read since a moment: statements, and those whose scan was limited to a range of the sort
-- key. What this package does is left out (query group dbops), and so are the samples that ANALYZE takes.
-- Source: documentation of SYS_QUERY_DETAIL; unscanned_table_summary of awslabs/amazon-redshift-utils asks STL_SCAN,
-- which is empty on serverless.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned and serverless.
select d.table_id, count(distinct d.query_id), count(distinct case when d.is_rrscan = 't' then d.query_id end)
from sys_query_detail d
join sys_query_history q on q.query_id = d.query_id
where d.start_time >= %s and d.user_id > 1 and trim(d.step_name) = 'scan' and d.table_id > 0
  and left(coalesce(trim(q.query_label), ''), 5) <> 'dbops' and left(ltrim(q.query_text), 17) <> 'padb_fetch_sample'
  and trim(q.query_type) not in ('COPY', 'DELETE', 'UTILITY')
group by d.table_id
