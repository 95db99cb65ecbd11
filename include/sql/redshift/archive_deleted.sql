-- Purpose: rows of a table that are deleted and not yet given back, before and after VACUUM DELETE ONLY.
-- Source:  SVV_TABLE_INFO; its column `empty` is no longer kept up.
-- Rights:  superuser, or SELECT on SVV_TABLE_INFO granted.
-- Works:   provisioned and serverless.
select tbl_rows - estimated_visible_rows, stats_off from svv_table_info where "schema" = %s and "table" = %s
