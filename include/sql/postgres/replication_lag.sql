-- Purpose:  how far each standby is behind. `replay_s` is null when there is nothing to replay, and on the primary also
--           while a standby replays nothing at all: `behind_bytes` tells then.
-- Source:   pg_stat_replication. On a standby: its own delay, zero when all that was received is replayed (else a quiet
--           primary would look like a lag that grows), else since what it replayed last, or since it was started.
-- Rights:   pg_monitor; without it lags of others are null.
-- Versions: 14 to 18.
select r.application_name as standby,
       host(r.client_addr) as client,
       r.state,
       r.sync_state,
       pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end,
                       r.replay_lsn)::bigint as behind_bytes,
       extract(epoch from r.replay_lag)::float8 as replay_s
  from pg_stat_replication r
union all
select 'this server', null, 'standby', null,
       pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint,
       case when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0
            else extract(epoch from now() - coalesce(pg_last_xact_replay_timestamp(), pg_postmaster_start_time())) end::float8
 where pg_is_in_recovery()
 order by behind_bytes desc nulls last;
