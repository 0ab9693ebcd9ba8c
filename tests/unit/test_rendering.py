"""A template that does not render is one clear error, whatever went wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.converge import desired
from deploy.errors import FleetError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\n{{ nobody_gave_it }}\n", "'nobody_gave_it' is undefined"),
        ("a\n{{ value.nothing.at_all }}\n", "has no attribute 'nothing'"),
        ("a\n{{ 1 / 0 }}\n", "ZeroDivisionError: division by zero"),
        ("a\n{{ value + 1 }}\n", "TypeError"),
        ("a\n{% if %}\n", "TemplateSyntaxError"),
        ("a\n{{ value | no_such_filter }}\n", "no_such_filter"),
        ("a\n{% include 'none.j2' %}\n", "TemplateNotFound"),
    ],
)
def test_one_error_that_names_template_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: str
) -> None:
    (tmp_path / "templates/role").mkdir(parents=True)
    (tmp_path / "templates/role/x.j2").write_text(text)
    monkeypatch.setattr(desired, "ROOT", tmp_path)
    with pytest.raises(FleetError) as refusal:
        desired.render("role/x.j2", value="v")
    assert refusal.value.subject == "templates/role/x.j2, line 2"
    assert found in refusal.value.found
    assert refusal.value.__cause__ is None


def test_no_such_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desired, "ROOT", tmp_path)
    with pytest.raises(FleetError, match=r"templates/role/none\.j2: found TemplateNotFound"):
        desired.render("role/none.j2")
