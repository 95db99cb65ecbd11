-- The slowest statements since a moment, in seconds.
-- Source: the guide's "Check query performance". Changed: STL_QUERY holds only what the main cluster ran, about a week
-- of it, and is empty on serverless; DATEDIFF of whole seconds hid what takes less; time in the queue stands apart.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser. Provisioned and serverless.
select q.query_id, trim(u.usename), trim(q.query_type), trim(q.status), q.start_time, q.elapsed_time / 1000000.0,
       q.queue_time / 1000000.0, left(trim(q.query_text), 200)
from sys_query_history q
left join pg_user u on u.usesysid = q.user_id
where q.start_time >= %s and q.user_id > 1
order by q.elapsed_time desc
limit 10
