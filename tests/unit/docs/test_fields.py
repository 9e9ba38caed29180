"""docs/fields.md is what the gateway's own tables say."""

from __future__ import annotations

from tools.field_page import PAGE, write_page


def test_the_page_is_made_of_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "run python -m tools.field_page"
