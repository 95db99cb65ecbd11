-- Functions of Redshift that PostgreSQL has not, or not so. They lie in pg_catalog, as Redshift's do. All are PARALLEL
-- SAFE: one that is not keeps the whole statement on one core, even where it is inlined.
CREATE FUNCTION pg_catalog.getdate() RETURNS timestamp
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT date_trunc('second',
       statement_timestamp())::timestamptz AT TIME ZONE current_setting('timezone') $$;

CREATE FUNCTION pg_catalog.rs_sysdate() RETURNS timestamp
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT transaction_timestamp() AT TIME ZONE current_setting('timezone') $$;

-- The names of date parts, abbreviations included, as PostgreSQL's.
CREATE FUNCTION rs.part(part text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN part IN ('millennium', 'millennia', 'mil', 'mils') THEN 'millennium'
        WHEN part IN ('century', 'c', 'cent', 'cents') THEN 'century'
        WHEN part IN ('decade', 'decades', 'dec', 'decs') THEN 'decade'
        WHEN part IN ('year', 'years', 'y', 'yr', 'yrs', 'yyyy') THEN 'year'
        WHEN part IN ('quarter', 'quarters', 'qtr', 'qtrs') THEN 'quarter'
        WHEN part IN ('month', 'months', 'mon', 'mons', 'mm') THEN 'month'
        WHEN part IN ('week', 'weeks', 'w', 'ww') THEN 'week'
        WHEN part IN ('day', 'days', 'd', 'dd', 'dayofyear', 'doy', 'dy', 'yearday', 'dayofweek', 'dow', 'dw',
            'weekday')
            THEN 'day'
        WHEN part IN ('hour', 'hours', 'h', 'hr', 'hrs', 'hh') THEN 'hour'
        WHEN part IN ('minute', 'minutes', 'm', 'min', 'mins', 'mi', 'n') THEN 'minute'
        WHEN part IN ('second', 'seconds', 's', 'sec', 'secs', 'ss') THEN 'second'
        WHEN part IN ('millisecond', 'milliseconds', 'ms', 'msec', 'msecs', 'msecond', 'mseconds') THEN 'millisecond'
        WHEN part IN ('microsecond', 'microseconds', 'microsecs', 'microsec', 'us', 'usec', 'usecs')
            THEN 'microsecond'
    END
$$;

-- Boundaries crossed, not whole units.
CREATE FUNCTION pg_catalog.date_diff(part text, a timestamp, b timestamp) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE rs.part(part)
        WHEN 'millennium' THEN extract(millennium FROM b)::bigint - extract(millennium FROM a)::bigint
        WHEN 'century' THEN extract(century FROM b)::bigint - extract(century FROM a)::bigint
        WHEN 'decade' THEN extract(decade FROM b)::bigint - extract(decade FROM a)::bigint
        WHEN 'year' THEN extract(year FROM b)::bigint - extract(year FROM a)::bigint
        WHEN 'quarter' THEN (extract(year FROM b) * 4 + extract(quarter FROM b))::bigint
                            - (extract(year FROM a) * 4 + extract(quarter FROM a))::bigint
        WHEN 'month' THEN (extract(year FROM b) * 12 + extract(month FROM b))::bigint
                          - (extract(year FROM a) * 12 + extract(month FROM a))::bigint
        WHEN 'week' THEN ((date_trunc('week', b + interval '1 day')::date
                          - date_trunc('week', a + interval '1 day')::date) / 7)::bigint
        WHEN 'day' THEN (b::date - a::date)::bigint
        WHEN 'hour' THEN (extract(epoch FROM date_trunc('hour', b)) / 3600)::bigint
                         - (extract(epoch FROM date_trunc('hour', a)) / 3600)::bigint
        WHEN 'minute' THEN (extract(epoch FROM date_trunc('minute', b)) / 60)::bigint
                           - (extract(epoch FROM date_trunc('minute', a)) / 60)::bigint
        WHEN 'second' THEN extract(epoch FROM date_trunc('second', b))::bigint
                           - extract(epoch FROM date_trunc('second', a))::bigint
        WHEN 'millisecond' THEN floor(extract(epoch FROM b) * 1000)::bigint - floor(extract(epoch
            FROM a) * 1000)::bigint
        -- By days and the time of day, whose seconds a double holds exactly enough: no numeric for each row.
        WHEN 'microsecond' THEN (b::date - a::date) * 86400000000 + (date_part('epoch', b::time) * 1000000)::bigint
                                - (date_part('epoch', a::time) * 1000000)::bigint
    END
$$;
CREATE FUNCTION pg_catalog.date_diff(part text, a timestamptz, b timestamptz) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT pg_catalog.date_diff(part, a::timestamp, b::timestamp) $$;
CREATE FUNCTION pg_catalog.date_diff(part text, a date, b date) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT pg_catalog.date_diff(part, a::timestamp, b::timestamp) $$;

CREATE FUNCTION pg_catalog.date_add(part text, n bigint, a timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT a + CASE rs.part(part) WHEN 'quarter' THEN n * interval '3 months'
        ELSE (n || ' ' || rs.part(part))::interval END
$$;
CREATE FUNCTION pg_catalog.date_add(part text, n bigint, a timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT a + CASE rs.part(part) WHEN 'quarter' THEN n * interval '3 months'
        ELSE (n || ' ' || rs.part(part))::interval END
$$;
CREATE FUNCTION pg_catalog.date_add(part text, n bigint, a date) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT pg_catalog.date_add(part, n, a::timestamp) $$;

CREATE FUNCTION pg_catalog.convert_timezone(source text, target text, a timestamp) RETURNS timestamp
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT (a AT TIME ZONE source) AT TIME ZONE target $$;
CREATE FUNCTION pg_catalog.convert_timezone(target text, a timestamp) RETURNS timestamp
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT (a AT TIME ZONE 'UTC') AT TIME ZONE target $$;
CREATE FUNCTION pg_catalog.convert_timezone(target text, a timestamptz) RETURNS timestamp
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT a AT TIME ZONE target $$;

CREATE FUNCTION pg_catalog.add_months(a timestamp, n bigint) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN a::date = (date_trunc('month', a) + interval '1 month - 1 day')::date
        THEN date_trunc('month', a) + (n + 1) * interval '1 month' - interval '1 day' + (a - date_trunc('day', a))
        ELSE a + n * interval '1 month' END
$$;
CREATE FUNCTION pg_catalog.last_day(a timestamp) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT (date_trunc('month', a) + interval '1 month - 1 day')::date $$;
CREATE FUNCTION pg_catalog.trunc(a timestamp) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT a::date $$;
CREATE FUNCTION pg_catalog.date_part_year(a date) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT extract(year FROM a)::int $$;

CREATE FUNCTION pg_catalog.len(a text) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT length(a) $$;
CREATE FUNCTION pg_catalog.charindex(part text, a text) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT strpos(a, part) $$;
CREATE FUNCTION pg_catalog.replicate(a text, n int) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT repeat(a, n) $$;

-- A number of that base, 64 bits, negative from the highest bit on only when it says so: too large is an error.
CREATE FUNCTION rs.strtol_any(a text, base int) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    total numeric := 0;
    digit int;
    body text := lower(trim(a));
    sign int := 1;
BEGIN
    IF left(body, 1) IN ('-', '+') THEN
        sign := CASE left(body, 1) WHEN '-' THEN -1 ELSE 1 END;
        body := substr(body, 2);
    END IF;
    IF base = 16 AND left(body, 2) = '0x' THEN
        body := substr(body, 3);
    END IF;
    FOR i IN 1 .. length(body) LOOP
        digit := strpos('0123456789abcdefghijklmnopqrstuvwxyz', substr(body, i, 1)) - 1;
        IF digit < 0 OR digit >= base THEN
            RAISE EXCEPTION USING ERRCODE = '22P02',
                MESSAGE = format('The input %s is not valid to be converted to base %s', a, base);
        END IF;
        total := total * base + digit;
    END LOOP;
    IF total > 9223372036854775807 THEN
        RAISE EXCEPTION USING ERRCODE = '22003',
            MESSAGE = format('The input %s is not valid to be converted to base %s', a, base);
    END IF;
    RETURN sign * total;
END $$;
-- The common case, a part of a hash, without a loop; PL/pgSQL, since its parameter is worked out once.
CREATE FUNCTION pg_catalog.strtol(a text, base int) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF base = 16 AND length(a) < 16 AND left(a, 1) > '/' AND substr(a, 2, 1) <> 'x' THEN
        RETURN ('x' || lpad(a, 16, '0'))::bit(64)::bigint;
    END IF;
    RETURN rs.strtol_any(a, base);
END $$;
CREATE FUNCTION pg_catalog.sha2(a text, bits int) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT encode(CASE bits WHEN 224 THEN sha224(convert_to(a, 'UTF8')) WHEN 384 THEN sha384(convert_to(a, 'UTF8'))
                            WHEN 512 THEN sha512(convert_to(a, 'UTF8')) ELSE sha256(convert_to(a, 'UTF8')) END, 'hex')
$$;
CREATE FUNCTION pg_catalog.json_parse(a text) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT a::jsonb $$;
CREATE FUNCTION pg_catalog.json_serialize(a jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT a::text $$;
CREATE FUNCTION pg_catalog.json_extract_path_text(a text, VARIADIC path text[]) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT CASE WHEN a <> '' THEN a::json #>> path END $$;

-- FNV-1a of 64 bits. A product modulo 2^64 by halves of 32 bits: the prime is 2^40 + 435.
CREATE FUNCTION rs.fnv(bytes bytea, seed bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    high bigint := (seed >> 32) & 4294967295;
    low bigint := seed & 4294967295;
BEGIN
    FOR i IN 0 .. length(bytes) - 1 LOOP
        low := low # get_byte(bytes, i);
        high := (high * 435 + ((low * 435) >> 32) + ((low & 16777215) << 8)) & 4294967295;
        low := (low * 435) & 4294967295;
    END LOOP;
    RETURN (high << 32) | low;
END $$;
CREATE FUNCTION rs.swapped(bytes bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT string_agg(substr(bytes, i, 1), '' ORDER BY i DESC) FROM generate_series(1, length(bytes)) i
$$;
CREATE FUNCTION pg_catalog.fnv_hash(a text, seed bigint DEFAULT -3750763034362895579) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT rs.fnv(convert_to(a, 'UTF8'), seed) $$;
CREATE FUNCTION pg_catalog.fnv_hash(a smallint, seed bigint DEFAULT -3750763034362895579) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT rs.fnv(rs.swapped(int2send(a)), seed) $$;
CREATE FUNCTION pg_catalog.fnv_hash(a int, seed bigint DEFAULT -3750763034362895579) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT rs.fnv(rs.swapped(int4send(a)), seed) $$;
CREATE FUNCTION pg_catalog.fnv_hash(a bigint, seed bigint DEFAULT -3750763034362895579) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT rs.fnv(rs.swapped(int8send(a)), seed) $$;

-- AVG: what PostgreSQL found, and a value of what it was of.
CREATE FUNCTION pg_catalog.avg(found numeric, sample bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT trunc(found)::bigint $$;
CREATE FUNCTION pg_catalog.avg(found numeric, sample int) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT trunc(found)::bigint $$;
CREATE FUNCTION pg_catalog.avg(found numeric, sample smallint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT trunc(found)::bigint $$;
CREATE FUNCTION pg_catalog.avg(found numeric, sample numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT found $$;
CREATE FUNCTION pg_catalog.avg(found float8, sample float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT found $$;
CREATE FUNCTION pg_catalog.avg(found interval, sample interval) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT found $$;
