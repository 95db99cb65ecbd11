-- Users and events by segment, from one moment on.
-- Source: the guide's "User segment analysis". Changed: a range on the sort key in place of DATE(timestamp). The
-- guide's own list of tables has no dmp_events.
-- Rights: SELECT on dmp_events. Provisioned and serverless.
select segment_id, count(distinct user_id) as unique_users, count(*) as total_events
from dmp_events
where "timestamp" >= %s
group by segment_id
order by unique_users desc
