-- Loads of the files below a prefix since a moment, the newest first: by where COPY was told to read, or by what it read.
-- Source: the guide's "Check recent data loads"; documentation of SYS_LOAD_HISTORY and SYS_LOAD_DETAIL. Changed: see
--         recent_loads.sql. `files` and `lines` are of this prefix only, as a COPY may load several hours.
-- Values: length of the prefix, prefix, moment (three times), length, prefix, length, prefix, table.
-- Rights: SYSLOG ACCESS UNRESTRICTED, sys:monitor or superuser, else only one's own. Provisioned and serverless.
select h.query_id, trim(h.status), h.start_time, h.loaded_rows, h.error_count,
       coalesce(d.files, 0), coalesce(d.lines, 0), coalesce(d.other_files, 0)
from sys_load_history h
left join (
    select query_id,
           count(distinct case when left(file_name, %s) = %s then file_name end) as files,
           sum(case when left(file_name, %s) = %s then lines_scanned else 0 end) as lines,
           count(distinct case when left(file_name, %s) <> %s then file_name end) as other_files
    from sys_load_detail
    where start_time >= %s
    group by query_id
) d on d.query_id = h.query_id
where h.start_time >= %s and (d.files > 0 or left(h.data_source, %s) = %s) and trim(h.table_name) = %s
order by h.start_time desc, h.query_id desc
limit 200
