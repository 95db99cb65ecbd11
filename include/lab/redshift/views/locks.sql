-- Who holds what: transactions and locks of the clients of the proxy.
CREATE VIEW pg_catalog.svv_transactions AS
SELECT s.username AS txn_owner, s.database AS txn_db, s.xid, s.pid, s.transaction_started AS txn_start,
       l.lock_mode, l.lockable_object_type, l.relation, l.granted
FROM rs.sessions s
CROSS JOIN LATERAL (
    SELECT 'ExclusiveLock'::text AS lock_mode, 'transactionid'::text AS lockable_object_type, NULL::int AS relation,
           true AS granted
    UNION ALL
    SELECT p.mode, 'relation', p.relation::bigint::int, p.granted FROM pg_locks p
        JOIN rs.table_note t ON t.relid = p.relation
    WHERE p.pid = s.pid AND p.locktype = 'relation'
      AND p.database = (SELECT oid FROM pg_database WHERE datname = current_database())
) l
WHERE s.xid IS NOT NULL;

CREATE VIEW pg_catalog.stv_locks AS
SELECT p.relation::bigint::int AS table_id, NULL::timestamp AS last_commit, s.transaction_started AS last_update,
       s.xid AS lock_owner,
       s.pid::bigint AS lock_owner_pid, s.transaction_started AS lock_owner_start_ts, NULL::timestamp
              AS lock_owner_end_ts,
       CASE WHEN p.granted THEN 'Holding write lock' ELSE 'Waiting for write lock' END::char(22) AS lock_status
FROM rs.sessions s
JOIN pg_locks p ON p.pid = s.pid AND p.locktype = 'relation'
    AND p.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
JOIN rs.table_note t ON t.relid = p.relation
WHERE s.xid IS NOT NULL AND rs.is_provisioned();

GRANT SELECT ON pg_catalog.svv_transactions, pg_catalog.stv_locks TO PUBLIC;

CREATE VIEW pg_catalog.stv_db_isolation_level AS
SELECT current_database()::char(128) AS db_name, rs.isolation()::char(20) AS isolation_level;
GRANT SELECT ON pg_catalog.stv_db_isolation_level TO PUBLIC;
