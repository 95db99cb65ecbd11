-- Purpose:  when the counters of statements began, and how often some were dropped for lack of room.
-- Source:   pg_stat_statements_info.
-- Rights:   CONNECT; extension pg_stat_statements in the database that is asked.
-- Versions: 14 to 18.
select stats_reset as reset_at, dealloc as dropped from pg_stat_statements_info;
