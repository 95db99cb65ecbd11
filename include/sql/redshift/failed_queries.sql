-- Statements that failed since a moment, by their error: how often, the last one, by whom.
-- Source: documentation of SYS_QUERY_HISTORY. A statement that somebody cancelled has status `canceled` and is not
-- among them.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned and serverless.
select count(*), max(q.query_id), max(trim(u.usename)), left(trim(q.error_message), 200)
from sys_query_history q
left join pg_user u on u.usesysid = q.user_id
where q.start_time >= %s and q.user_id > 1 and q.status = 'failed'
group by left(trim(q.error_message), 200)
order by count(*) desc
limit 10
