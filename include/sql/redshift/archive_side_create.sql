-- Purpose: a table of its own for rows that come back from the archive, with the columns that they had.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_CREATE_TABLE_NEW.html
-- Rights:  CREATE on the schema.
-- Works:   provisioned and serverless.
create table {side} ({columns}) sortkey ({column})
