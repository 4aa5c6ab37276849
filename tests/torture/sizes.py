"""Every test of this folder has a short form, for each change, and a long one, for a release."""

from __future__ import annotations

import pytest


def sizes(short: int, long: int) -> pytest.MarkDecorator:
    """Run a test with ``size`` set to ``short``, and under ``make torture`` to ``long``."""
    forms = [pytest.param(short, id="short")]
    forms.append(pytest.param(long, id="long", marks=pytest.mark.torture))
    return pytest.mark.parametrize("size", forms)
