-- Purpose: rows of the archive go back into their table.
-- Source:  ours.
-- Rights:  INSERT on the table.
-- Works:   provisioned and serverless.
insert into {table} ({columns}) select {columns} from {side}
