-- Purpose:  connections against max_connections: how many, in which state, and how many are left for ordinary roles.
-- Source:   the operations guide, key performance indicators (below 80 % of max_connections).
-- Rights:   pg_monitor; without it the states of others are not known.
-- Versions: 14 to 18 (reserved_connections exists from 16).
select count(*) as used,
       current_setting('max_connections')::int as allowed,
       current_setting('superuser_reserved_connections')::int
         + coalesce(current_setting('reserved_connections', true), '0')::int as reserved,
       count(*) filter (where state = 'active') as active,
       count(*) filter (where state = 'idle') as idle,
       count(*) filter (where state like 'idle in transaction%') as idle_in_transaction,
       count(*) filter (where state is null) as unknown,
       count(*) filter (where wait_event_type = 'Lock') as waiting
  from pg_stat_activity
 where backend_type = 'client backend';
