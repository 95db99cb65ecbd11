"""COPY and UNLOAD take Redshift's options and no other, each once, and keep no secret."""

from __future__ import annotations

import pytest
from dbops_lab.redshift.errors import BackendError
from dbops_lab.redshift.options import (
    CopyStatement,
    UnloadStatement,
    limits_outer_select,
    parse_copy,
    parse_unload,
)

COPY = "COPY t FROM 's3://b/k' IAM_ROLE 'arn:aws:iam::1:role/r' "
UNLOAD = "UNLOAD ('select 1') TO 's3://b/k' IAM_ROLE default "


def test_airflows_operators_write_statements_that_are_understood() -> None:
    credentials = "aws_access_key_id=A;aws_secret_access_key=B;token=C"
    found = parse_copy(f"""
                    COPY "public"."t" (a, "Select")
                    FROM 's3://b/k/'
                    credentials
                    '{credentials}'
                    csv
                    IGNOREHEADER 1;
        """)
    assert found == CopyStatement(("public", "t"), ("a", "select"), "s3://b/k/", format="csv", ignore_header=1)
    found_unload = parse_unload(f"""
                    UNLOAD ($$SELECT * FROM public.t$$)
                    TO 's3://b/k/t_'
                    credentials
                    '{credentials}'
                    HEADER
                    PARALLEL OFF;
        """)
    assert found_unload == UnloadStatement("SELECT * FROM public.t", "s3://b/k/t_", header=True, parallel=False)


def test_every_option_of_copy_has_its_place() -> None:
    found = parse_copy(
        COPY + r"FORMAT AS CSV QUOTE AS '%', DELIMITER AS '\t', NULL AS '\N', IGNOREHEADER AS 2 IGNOREBLANKLINES"
        " MAXERROR AS 7 GZIP MANIFEST REGION 'eu-west-1' DATEFORMAT AS 'auto' TIMEFORMAT 'epochsecs' EMPTYASNULL"
        " BLANKSASNULL TRUNCATECOLUMNS TRIMBLANKS ROUNDEC FILLRECORD ACCEPTANYDATE ACCEPTINVCHARS ENCODING UTF8"
        " EXPLICIT_IDS COMPUPDATE PRESET COMPROWS 1000 STATUPDATE OFF NOLOAD -- done"
    )
    assert found == CopyStatement(
        ("t",), None, "s3://b/k", format="csv", quote="%", delimiter="\t", null_as="\\N", ignore_header=2,
        ignore_blank_lines=True, max_errors=7, compression="gzip", manifest=True, date_format="auto",
        time_format="epochsecs", empty_as_null=True, blanks_as_null=True, truncate_columns=True, trim_blanks=True,
        round_decimals=True, fill_record=True, accept_any_date=True, replacement="?", explicit_ids=True, no_load=True,
    )  # fmt: skip


def test_every_option_of_unload_has_its_place() -> None:
    found = parse_unload(
        UNLOAD + "FORMAT AS PARQUET PARTITION BY (a, b) INCLUDE MANIFEST VERBOSE ALLOWOVERWRITE PARALLEL TRUE"
        " MAXFILESIZE AS 1.5 GB ROWGROUPSIZE 64 MB EXTENSION 'pq' REGION AS 'eu-west-1'"
    )
    assert found == UnloadStatement(
        "select 1", "s3://b/k", format="parquet", partition_by=("a", "b"), include=True, manifest=True, verbose=True,
        allow_overwrite=True, max_file_size=3 << 29, row_group_size=64 << 20, extension="pq",
    )  # fmt: skip
    assert parse_unload(UNLOAD + "BZIP2 CLEANPATH ADDQUOTES ESCAPE NULL 'x' HEADER").clean_path


@pytest.mark.parametrize(
    ("statement", "near"),
    [
        (COPY + "COMPRESS", '"COMPRESS"'),
        (COPY + "FORMAT XML", '"XML"'),
        (COPY + "GZIP 'x'", "\"'...'\""),
        (COPY + "MAXERROR many", '"many"'),
        (COPY + "IGNOREHEADER 1.5", '"1.5"'),
        (COPY + "DELIMITER", "end of input"),
        (COPY + "= 5", '"="'),
        ("COPY t (a,) FROM 's3://b/k'", '")"'),
        ("COPY t TO 's3://b/k'", '"TO"'),
        ("COPY FROM 's3://b/k'", "\"'...'\""),
        (UNLOAD + "VERBOSE", '"VERBOSE"'),
        (UNLOAD + "MAXERROR 5", '"MAXERROR"'),
        (UNLOAD + "PARTITION (a)", '"("'),
        ("UNLOAD (select 1) TO 's3://b/k'", '"select"'),
        ("UNLOAD ('select 1' TO 's3://b/k'", '"TO"'),
    ],
)
def test_what_redshift_does_not_know_is_a_syntax_error(statement: str, near: str) -> None:
    parse = parse_unload if statement.startswith("UNLOAD") else parse_copy
    with pytest.raises(BackendError) as caught:
        parse(statement)
    assert caught.value.code == "42601"
    assert caught.value.message.endswith(near)


@pytest.mark.parametrize(
    ("statement", "code", "message"),
    [
        (COPY + "CSV ESCAPE", "0A000", "ESCAPE argument is not supported for CSV based COPY"),
        (COPY + "REMOVEQUOTES CSV", "0A000", "REMOVEQUOTES argument is not supported for CSV based COPY"),
        (COPY + "PARQUET MAXERROR 5", "0A000", "MAXERROR argument is not supported for PARQUET based COPY"),
        (COPY + "PARQUET GZIP", "0A000", "GZIP argument is not supported for PARQUET based COPY"),
        (COPY + "JSON DELIMITER ','", "0A000", "DELIMITER argument is not supported for JSON based COPY"),
        (COPY + "GZIP GZIP", "42601", "conflicting or redundant options"),
        (COPY + "GZIP ZSTD", "42601", "conflicting or redundant options"),
        (COPY + "CSV PARQUET", "42601", "conflicting or redundant options"),
        (COPY + "IAM_ROLE default", "42601", "conflicting or redundant options"),
        (COPY + "MAXERROR 2 IGNOREALLERRORS", "42601", "MAXERROR and IGNOREALLERRORS"),
        (COPY + "MAXERROR 100001", "22023", "MAXERROR must be between 0 and 100000"),
        (COPY + "DELIMITER ',,'", "22023", "DELIMITER must be a single ASCII character"),
        (COPY + "FIXEDWIDTH 'a:1'", "0A000", "COPY FIXEDWIDTH"),
        (COPY + "FORMAT AVRO", "0A000", "COPY AVRO"),
        (COPY + "JSON 'noshred'", "0A000", "COPY JSON 'NOSHRED'"),
        (COPY + "ENCODING UTF16", "0A000", "COPY ENCODING UTF16"),
        ("COPY t FROM 'dynamodb://x' IAM_ROLE default", "0A000", "COPY FROM DYNAMODB"),
        ("COPY t FROM 's3://b/k' CSV", "XX000", "CREDENTIALS argument is required"),
        (UNLOAD + "PARQUET HEADER", "0A000", "HEADER argument is not supported for PARQUET based UNLOAD"),
        (UNLOAD + "PARQUET GZIP", "0A000", "GZIP argument is not supported for PARQUET based UNLOAD"),
        (UNLOAD + "CSV ADDQUOTES", "0A000", "ADDQUOTES argument is not supported for CSV based UNLOAD"),
        (UNLOAD + "CSV ROWGROUPSIZE 64", "0A000", "ROWGROUPSIZE argument is not supported for CSV based UNLOAD"),
        (UNLOAD + "CLEANPATH ALLOWOVERWRITE", "42601", "CLEANPATH and ALLOWOVERWRITE"),
        (UNLOAD + "MAXFILESIZE 4 MB", "22023", "MAXFILESIZE must be between 5 MB and 6.2 GB"),
        (UNLOAD + "PARQUET ROWGROUPSIZE 256", "22023", "ROWGROUPSIZE must be between 32 MB and 128 MB"),
        (UNLOAD + "JSON", "0A000", "UNLOAD JSON"),
        (UNLOAD + "KMS_KEY_ID 'x' ENCRYPTED", "0A000", "UNLOAD KMS_KEY_ID"),
        ("UNLOAD ('select 1') TO '/tmp/x' IAM_ROLE default", "22023", "The S3 path '/tmp/x' is not valid"),
        ("UNLOAD ('select 1') TO 's3://b/k' CSV", "XX000", "CREDENTIALS argument is required"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(statement: str, code: str, message: str) -> None:
    parse = parse_unload if statement.startswith("UNLOAD") else parse_copy
    with pytest.raises(BackendError) as caught:
        parse(statement)
    assert caught.value.code == code
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("query", "limited"),
    [
        ("select 1 limit 1", True),
        ("with a as (select 1 limit 5) select * from a", False),
        ("select * from a where b in (select top 5 c from d)", False),
        ("select distinct top 5 * from a", True),
        ("select topic, 'limit 1' from a -- limit 1", False),
        ('select "limit" from a /* limit 1 */', False),
    ],
)
def test_the_limit_of_the_outer_select_is_found(query: str, limited: bool) -> None:
    assert limits_outer_select(query) is limited
