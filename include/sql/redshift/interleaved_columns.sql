-- Skew of each column of interleaved sort keys; last_reindex is null when the key was never initialised.
-- Source: documentation of SVV_INTERLEAVED_COLUMNS; rule of AnalyzeVacuumUtility.
-- Rights: superuser, or GRANT SELECT ON svv_interleaved_columns. Provisioned and serverless.
select tbl, max(coalesce(interleaved_skew, 0)), count(last_reindex)
from svv_interleaved_columns
group by tbl
