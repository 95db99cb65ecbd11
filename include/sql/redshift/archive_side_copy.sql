-- Purpose: load a part of the archive. The manifest names its files and their sizes: a file that is missing or cut off fails
--          it. {more}: SERIALIZETOJSON where there is a SUPER column.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/copy-usage_notes-copy-from-columnar.html
-- Rights:  INSERT on the table; the role reads the archive (include/iam/redshift-archive-policy.json).
-- Works:   provisioned and serverless; the bucket is in the warehouse's region.
copy {side} from {manifest} iam_role {role} format parquet manifest {more}
