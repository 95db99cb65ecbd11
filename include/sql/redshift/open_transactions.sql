-- Transactions of others that began before a moment and are still open: VACUUM cannot remove rows deleted since then.
-- Source: documentation of SVV_TRANSACTIONS; awsdocs/amazon-redshift-developer-guide #21.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser, to see those of others. Provisioned and serverless.
select pid, xid, trim(txn_owner), trim(txn_db), min(txn_start)
from svv_transactions
where txn_start < %s and pid <> pg_backend_pid()
group by pid, xid, txn_owner, txn_db
order by min(txn_start)
