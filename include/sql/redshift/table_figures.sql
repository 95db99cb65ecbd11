-- State of every table of this database that has rows: size, sort, statistics, deleted rows, distribution.
-- Source: the guide's "Monitor table statistics" and "Check table maintenance needs" in one. The second one, with
-- `vacuum_sort_benefit > 5` alone, misses deleted rows and stale statistics; the column is null without a sort key.
-- Deleted rows are tbl_rows - estimated_visible_rows: the column `empty` is always 0 (awslabs/amazon-redshift-utils
-- #97).
-- Rights: superuser, or GRANT SELECT ON svv_table_info. Provisioned and serverless.
select schema, "table", table_id, size, tbl_rows, estimated_visible_rows, unsorted, stats_off, diststyle, sortkey1,
       vacuum_sort_benefit, skew_rows, skew_sortkey1, trim(sortkey1_enc), create_time
from svv_table_info
order by size desc
