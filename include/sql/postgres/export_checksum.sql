-- Purpose:  rows of one table, and a sum over all of them that does not depend on their order.
-- Source:   hashtextextended of the row's text. It is what PARTITION BY HASH goes by, so that it is the same on every
--           server of one byte order (pg_upgrade keeps such partitions); sum(bigint) is exact and cannot overflow.
-- Rights:   SELECT on the table. {table} is a quoted name; rows of partitions and children count as their own.
-- Versions: 14 to 18.
select count(*) as rows, coalesce(sum(hashtextextended((t.*)::text collate "C", 0)), 0) as sum from only {table} t;
