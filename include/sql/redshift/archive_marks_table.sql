-- Purpose: the table in which each deletion of archived rows is marked, in its own transaction. It decides what the
--          warehouse holds no more; include/sql/redshift/grants.sql grants what that needs.
-- Source:  ours.
-- Rights:  CREATE on the schema.
-- Works:   provisioned and serverless.
create table if not exists {marks} (
    dataset varchar(256) not null,
    day date not null,
    attempt varchar(64) not null,
    outcome varchar(16) not null,
    row_count bigint not null,
    marked_at timestamp not null,
    keep_until timestamp
) diststyle all sortkey (day)
