-- Whether this login is a superuser, and how many statements of others it sees since a moment: without rights it sees
-- only its own, and a look at these must not pass for one at the cluster's.
-- Rights: none. Provisioned and serverless.
select max(case when u.usesuper then 1 else 0 end), count(q.query_id)
from pg_user u
left join sys_query_history q on q.user_id <> u.usesysid and q.user_id > 1 and q.start_time >= %s
where u.usename = current_user
