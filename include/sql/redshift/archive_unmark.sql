-- Purpose: forget what was said of an attempt, to say something else.
-- Source:  our table of marks.
-- Rights:  DELETE on it.
-- Works:   provisioned and serverless.
delete from {marks} where dataset = %s and day = %s and attempt = %s
