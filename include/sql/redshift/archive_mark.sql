-- Purpose: say what became of an attempt.
-- Source:  our table of marks.
-- Rights:  INSERT on it.
-- Works:   provisioned and serverless.
insert into {marks} values (%s, %s, %s, %s, %s, %s, %s)
