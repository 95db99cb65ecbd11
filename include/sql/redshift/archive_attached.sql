-- Purpose: days that were brought back and stay for a while.
-- Source:  our table of marks.
-- Rights:  SELECT on it.
-- Works:   provisioned and serverless.
select dataset, day, max(keep_until) from {marks} where outcome = 'attached' and keep_until > %s group by 1, 2
