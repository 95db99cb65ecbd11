-- Purpose:  how much of each sequence is used; one that belongs to a smaller column ends at that column's limit.
-- Source:   pg_sequence, pg_sequence_last_value; those that may not be read are left to `readable`. A sequence that
--           cycles never ends.
-- Rights:   SELECT or USAGE on the sequences (grants.sql); `readable` is false without.
-- Versions: 14 to 18.
select n.nspname as schema,
       c.relname as sequence,
       owner.attrelid::regclass::text as "table",
       owner.attname as column,
       has_sequence_privilege(c.oid, 'select, usage') as readable,
       v.last_value,
       v.ends_at,
       case when v.last_value is null then 0
            else round(100 * (v.last_value - v.begins_at) / nullif(v.ends_at - v.begins_at, 0), 2) end::float8 as used_percent
  from pg_sequence s
  join pg_class c on c.oid = s.seqrelid
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_depend d
    on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
   and d.deptype in ('a', 'i')
  left join pg_attribute owner on owner.attrelid = d.refobjid and owner.attnum = d.refobjsubid
 cross join lateral (
    select case when has_sequence_privilege(c.oid, 'select, usage') then pg_sequence_last_value(c.oid) end::numeric
               as last_value,
           case when s.seqincrement > 0 then s.seqmin else s.seqmax end::numeric as begins_at,
           case when s.seqincrement < 0 then greatest(s.seqmin, case owner.atttypid when 'int2'::regtype then -32768
                                                     when 'int4'::regtype then -2147483648 else s.seqmin end)
                else least(s.seqmax, case owner.atttypid when 'int2'::regtype then 32767
                                     when 'int4'::regtype then 2147483647 else s.seqmax end) end::numeric as ends_at
 ) v
 where not s.seqcycle and c.relpersistence <> 't'
 order by used_percent desc
 limit 50;
