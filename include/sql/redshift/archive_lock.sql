-- Purpose: one deletion at a time. Taken before the transaction reads anything, so that what it reads is newer than what
--          the one before it wrote, at every isolation level; and two days of a table do not end each other with 1023.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_LOCK.html
--          A day's own table is locked too before it is compared and dropped: DROP takes whatever is in it.
-- Rights:  DELETE on the table. The manual is silent; so it is in PostgreSQL, from which Redshift comes.
-- Works:   provisioned and serverless.
lock table {table}
