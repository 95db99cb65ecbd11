"""Which functions a statement may call: those that Redshift documents and this stand-in has."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_AGGREGATE = """
any_value avg bit_and bit_or bool_and bool_or count listagg max median min percentile_cont percentile_disc stddev
stddev_pop stddev_samp sum variance var_pop var_samp
"""
_WINDOW = """
cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number
"""
_CONDITIONAL = "coalesce greatest least nullif nvl nvl2 decode"
_DATE = """
add_months convert_timezone current_date date date_cmp date_part date_part_year date_trunc dateadd datediff extract
getdate last_day sysdate timeofday timezone to_timestamp trunc
"""
_MATH = """
abs acos asin atan atan2 cbrt ceil ceiling cos cot degrees dexp dlog1 dlog10 exp floor ln log mod pi power radians
random round sign sin sqrt tan
"""
_TEXT = """
ascii bpcharcmp btrim bttext_pattern_cmp char_length character_length charindex chr concat fnv_hash
initcap left len length lower lpad ltrim md5 octet_length position quote_ident quote_literal regexp_count regexp_instr
regexp_replace regexp_substr repeat replace replicate reverse right rpad rtrim sha2 split_part strpos strtol
substr substring textlen translate trim upper to_hex
"""
_JSON = """
json_array_length
json_extract_path_text json_parse json_serialize
"""
_FORMAT = "cast convert to_char to_date to_number"
_SYSTEM = """
current_database current_schema current_schemas current_setting has_database_privilege has_schema_privilege
has_table_privilege pg_backend_pid pg_cancel_backend pg_last_copy_count pg_last_copy_id pg_last_query_id
pg_last_unload_count pg_last_unload_id pg_terminate_backend pg_get_userbyid pg_get_viewdef set_config version
pg_client_encoding format_type pg_table_is_visible obj_description col_description pg_get_expr
"""
ALLOWED = words(" ".join((_AGGREGATE, _WINDOW, _CONDITIONAL, _DATE, _MATH, _TEXT, _JSON, _FORMAT, _SYSTEM)))

NOT_FUNCTIONS = words(
    """
    all and any array as between by case check coalesce cross default distinct else end except exists filter from
    full group grouping having ilike in inner intersect into is isnull join key left like limit minus natural not
    notnull null on only or order outer over partition primary references returning right rollup cube sets row rows
    select set similar some then to union unique update using values when where window with within bigint boolean
    bool bpchar char character date decimal double float float4 float8 int int2 int4 int8 integer interval nchar
    numeric nvarchar precision real smallint super text time timestamp timestamptz timetz varbyte varchar varying
    encode distkey sortkey identity table
    """
)
"""Words that may stand before a parenthesis without being called."""

DATE_PARTS = words(
    """
    millennium millennia mil mils century c cent cents decade decades dec decs epoch year years y yr yrs yyyy
    quarter quarters qtr qtrs month months mon mons mm week weeks w ww dayofweek dow dw weekday dayofyear doy dy
    yearday day days d dd hour hours h hr hrs hh minute minutes m min mins mi n second seconds s sec secs ss
    millisecond milliseconds ms msec msecs msecond mseconds microsecond microseconds microsecs microsec us usec
    usecs timezone timezone_hour timezone_minute
    """
)

RESERVED = words(
    """
    aes128 aes256 all allowoverwrite analyse analyze and any array as asc authorization az64 backup between binary
    blanksasnull both bytedict bzip2 case cast check collate column connect constraint create credentials cross
    current_date current_time current_timestamp current_user current_user_id default deferrable deflate defrag delta
    delta32k desc disable distinct do else emptyasnull enable encode encrypt encryption end except explicit false
    for foreign freeze from full globaldict256 globaldict64k grant group gzip having identity ignore ilike in
    initially inner intersect interval into is isnull join language leading left like limit localtime localtimestamp
    lun luns lzo lzop minus mostly16 mostly32 mostly8 natural new not notnull null nulls off offline offset oid old
    on only open or order outer overlaps parallel partition percent permissions pivot placing primary raw readratio
    recover references rejectlog resort respect restore right select session_user similar snapshot some sysdate
    system table tag tdes text255 text32k then timestamp to top trailing true truncatecolumns union unique unnest
    unpivot user using verbose wallet when where with without
    """
)
"""Words that a name cannot be unless it is quoted. `start`, which the list in the guide has too, is accepted."""

NEVER_BARE = words(
    """
    aes128 aes256 allowoverwrite az64 backup blanksasnull bytedict bzip2 credentials deflate defrag delta delta32k
    disable emptyasnull enable encode encrypt encryption explicit freeze globaldict256 globaldict64k gzip lun luns lzo
    lzop mostly16 mostly32 mostly8 new off offline old open parallel percent permissions raw readratio recover
    rejectlog resort restore snapshot system tag tdes text255 text32k truncatecolumns wallet
    """
)
"""Reserved words that have no place in a query at all, where PostgreSQL would take them for names."""
