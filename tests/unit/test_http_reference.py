"""`docs/reference/http.md` has a heading for every path and method, and every error's code with its status."""

from __future__ import annotations

import re
from pathlib import Path

from boost_streams import errors
from boost_streams.errors import BoostError
from web.routes import ROUTES

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text()


def test_page_has_every_path_and_no_other() -> None:
    headings = re.findall(r"^### ([A-Z]+ /\S*)$", PAGE, re.MULTILINE)
    routes = [f"{method.upper()} {path}" for path, methods in ROUTES.items() for method in methods]
    assert sorted(headings) == sorted(routes)


def test_page_has_every_error_with_its_status() -> None:
    documented = set(re.findall(r"^\| (\d{3}) \| `(\w+)` \|", PAGE, re.MULTILINE))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BoostError)]
    assert documented == {(str(kind.status), kind.code) for kind in kinds}
