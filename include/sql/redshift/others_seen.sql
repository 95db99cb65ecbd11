-- How many statements of others this login sees since a moment.
-- Source: documentation of SYS_QUERY_HISTORY, which shows a login without rights its own only.
-- Rights: none. Provisioned and serverless.
select count(*)
from sys_query_history q
join pg_user u on u.usename = current_user
where q.start_time >= %s and q.user_id > 1 and q.user_id <> u.usesysid
