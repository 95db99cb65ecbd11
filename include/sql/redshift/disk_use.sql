-- Use of the fullest node in percent, and of all in megabytes. With RA3, capacity is the quota of managed storage.
-- Source: documentation of STV_NODE_STORAGE_CAPACITY.
-- Rights: superuser, or sys:monitor. Provisioned only; empty on serverless, where storage has no limit.
select max(100.0 * used / nullif(capacity, 0)), sum(used), count(*)
from stv_node_storage_capacity
