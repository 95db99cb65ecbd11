-- Purpose: say what became of an attempt.
-- Source:  our table of marks.
-- Rights:  INSERT on it.
-- Works:   provisioned and serverless.
insert into {marks} (dataset, day, attempt, outcome, row_count, marked_at, keep_until)
values (%s, %s, %s, %s, %s, %s, %s)
