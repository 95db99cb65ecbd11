-- Purpose: what became of the attempts to archive a day.
-- Source:  our table of marks.
-- Rights:  SELECT on it.
-- Works:   provisioned and serverless.
select attempt, outcome, row_count, keep_until from {marks} where dataset = %s and day = %s
