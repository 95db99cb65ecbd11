-- Whether this login is a superuser, and how many statements of others it sees since a moment: without rights it sees its own only,
-- and a look at its own statements must not pass for one at the cluster's.
-- Rights: none. Provisioned and serverless.
select (select usesuper from pg_user where usename = current_user),
       (select count(*) from sys_query_history where start_time >= %s and user_id > 1 and user_id <> current_user_id)
