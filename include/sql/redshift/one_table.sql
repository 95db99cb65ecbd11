-- State of one table: the columns of table_figures, before and after work on it.
-- Rights: superuser, or GRANT SELECT ON svv_table_info. Provisioned and serverless.
select schema, "table", table_id, size, tbl_rows, estimated_visible_rows, unsorted, stats_off, diststyle, sortkey1,
       vacuum_sort_benefit, skew_rows, skew_sortkey1, trim(sortkey1_enc), create_time
from svv_table_info
where table_id = %s
