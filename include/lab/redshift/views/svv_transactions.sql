CREATE VIEW pg_catalog.svv_transactions AS
SELECT s.username AS txn_owner, s.database AS txn_db, s.xid, s.pid, s.transaction_started AS txn_start,
       l.lock_mode, l.lockable_object_type, l.relation, l.granted
FROM json_to_recordset(coalesce(rs.told('sessions'), '[]')) AS s(
    username text, database text, xid bigint, pid int, transaction_started timestamp)
CROSS JOIN LATERAL (
    SELECT 'ExclusiveLock'::text AS lock_mode, 'transactionid'::text AS lockable_object_type, NULL::int AS relation, true AS granted
    UNION ALL
    SELECT p.mode, 'relation', p.relation::bigint::int, p.granted FROM pg_locks p
    WHERE p.pid = s.pid AND p.locktype = 'relation' AND p.relation >= 16384
      AND p.database = (SELECT oid FROM pg_database WHERE datname = current_database())
) l
WHERE s.xid IS NOT NULL;
