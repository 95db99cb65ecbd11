-- Purpose:  replication slots: whether somebody reads them, and how much WAL they keep on the disk.
-- Source:   pg_replication_slots, which says since 17 since when nobody reads a slot, and why it was invalidated.
-- Rights:   CONNECT.
-- Versions: 17 and 18.
select slot_name as slot,
       slot_type as type,
       database,
       active,
       wal_status,
       case when not pg_is_in_recovery() and restart_lsn is not null
            then pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint end as kept_bytes,
       safe_wal_size as room_bytes,
       inactive_since,
       invalidation_reason as invalidated_by
  from pg_replication_slots
 order by kept_bytes desc nulls first;
