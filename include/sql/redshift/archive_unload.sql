-- Purpose: write a day to Parquet, into a prefix that nothing else was ever written to.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_UNLOAD.html. Files of 1 GB can be copied by S3 in one request;
--          neither ALLOWOVERWRITE nor CLEANPATH: an attempt never touches what another one wrote.
-- Rights:  SELECT on the table; the role writes to the prefix (include/iam/redshift-archive-policy.json).
-- Works:   provisioned and serverless.
unload ({query}) to {destination} iam_role {role} format parquet manifest verbose maxfilesize 1 gb region {region}
