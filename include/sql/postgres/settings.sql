-- Purpose:  the settings that the guide's tuning is about, to be read beside the machine's memory.
-- Source:   the operations guide, "Configuration Tuning": shared_buffers 25 % and effective_cache_size 75 % of memory.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select name,
       current_setting(name) as value,
       case when unit in ('kB', '8kB', 'MB') then setting::bigint * case unit when 'kB' then 1024 when '8kB' then 8192
                                                                              else 1048576 end end as bytes,
       source
  from pg_settings
 where name in ('shared_buffers', 'effective_cache_size', 'work_mem', 'maintenance_work_mem', 'autovacuum_work_mem',
                'max_connections', 'autovacuum', 'autovacuum_max_workers', 'autovacuum_vacuum_cost_limit', 'track_counts',
                'idle_in_transaction_session_timeout', 'statement_timeout', 'lock_timeout', 'max_wal_size', 'wal_level',
                'shared_preload_libraries', 'data_checksums', 'track_io_timing', 'random_page_cost')
 order by name;
