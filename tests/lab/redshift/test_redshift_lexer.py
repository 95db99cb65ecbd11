"""SQL is split where Redshift would split it."""

from __future__ import annotations

import pytest
from dbops_lab.redshift.errors import BackendError
from dbops_lab.redshift.lexer import literal, render, significant, split, tokenize
from hypothesis import given
from hypothesis import strategies as st

PIECES = ["select", " ", "\n", "'a''b'", r"'a\'b'", '"Q""x"', "$$a;b$$", "$t$ $$ ; $t$", "/* a /* b */ ; */", "-- c;\n",
          "1.5e3", ";", "::", "(", ")", "#tmp", "$1", "<>", "tëxt"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES)))
def test_tokens_are_the_text_again(pieces: list[str]) -> None:
    text = " ".join(pieces)
    assert render(tokenize(text)) == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("select 1; select 2;", ["select 1", "select 2"]),
        ("select ';', $$;$$, $a$ $$;$$ $a$; -- ;\n", ["select ';', $$;$$, $a$ $$;$$ $a$"]),
        (r"select 'it\'s; one'; select 2", [r"select 'it\'s; one'", "select 2"]),
        ("select /* ; /* ; */ ; */ 1;;", ["select /* ; /* ; */ ; */ 1"]),
        ('select ";" from x', ['select ";" from x']),
        ("  ;  -- nothing\n", []),
    ],
)
def test_statements_end_at_semicolons_that_are_none_of_a_literal_name_or_comment(text: str, parts: list[str]) -> None:
    assert split(text) == parts


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_a_literal_means_its_text(text: str) -> None:
    (token,) = significant(tokenize(literal(text)))
    assert token.value == text


@pytest.mark.parametrize("text", ["select 'a", 'select "a', "/* a", r"select 'a\'"])
def test_what_does_not_end_is_refused(text: str) -> None:
    with pytest.raises(BackendError, match="unterminated"):
        tokenize(text)
