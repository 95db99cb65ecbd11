-- Purpose: the figures of a day that must be those of its files before it is deleted, in one scan.
-- Source:  a range of the sort key. {figures}: of each column, see plugins/dbops/redshift/archive_checks.py.
-- Rights:  SELECT on the table.
-- Works:   provisioned and serverless.
select {figures} from {table} where {range}
