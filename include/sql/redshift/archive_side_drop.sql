-- Purpose: remove the table that an earlier try made, or that was attached.
-- Source:  ours.
-- Rights:  owner of the table.
-- Works:   provisioned and serverless.
drop table if exists {side}
