-- Purpose:  indexes that another index of the table makes needless: the same columns in the same order and way, or a
--           b-tree whose columns are the first ones of a longer b-tree. Neither holds a rule (unique, primary).
-- Source:   pg_index.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
with found as (
    select i.indexrelid, i.indrelid, n.nspname, t.relname as tablename, c.relname, am.amname,
           i.indisunique or i.indisprimary or i.indisexclusion or i.indisreplident or i.indisclustered as holds_a_rule,
           i.indnatts, i.indnkeyatts,
           string_to_array(i.indkey::text, ' ') as keys,
           string_to_array(i.indclass::text, ' ') as classes,
           string_to_array(i.indcollation::text, ' ') as collations,
           string_to_array(i.indoption::text, ' ') as options,
           coalesce(pg_get_expr(i.indpred, i.indrelid), '') as condition,
           coalesce(pg_get_expr(i.indexprs, i.indrelid), '') as expressions
      from pg_index i
      join pg_class c on c.oid = i.indexrelid and c.relkind = 'i'
      join pg_class t on t.oid = i.indrelid
      join pg_namespace n on n.oid = c.relnamespace
      join pg_am am on am.oid = c.relam
     where i.indisvalid and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\_%'
)
select a.nspname as schema,
       a.tablename as "table",
       a.relname as index,
       min(b.relname) as covered_by,
       pg_relation_size(a.indexrelid) as bytes
  from found a
  join found b
    on b.indrelid = a.indrelid and b.indexrelid <> a.indexrelid and b.amname = a.amname and b.condition = a.condition
   and not a.holds_a_rule
   and ((a.keys = b.keys and a.indnkeyatts = b.indnkeyatts and a.classes = b.classes and a.collations = b.collations
         and a.options = b.options and a.expressions = b.expressions
         and (b.holds_a_rule or a.indexrelid > b.indexrelid))
     or (a.amname = 'btree' and a.expressions = '' and b.expressions = '' and a.indnatts = a.indnkeyatts
         and a.indnkeyatts < b.indnkeyatts
         and a.keys = b.keys[1:a.indnkeyatts] and a.classes = b.classes[1:a.indnkeyatts]
         and a.collations = b.collations[1:a.indnkeyatts] and a.options = b.options[1:a.indnkeyatts]))
 group by a.indexrelid, a.nspname, a.tablename, a.relname
 order by bytes desc
 limit 50;
