"""Verdicts of omegaUp: what a run may end with."""

from __future__ import annotations

from typing import Final

VERDICTS: Final = frozenset(("AC", "PA", "PE", "WA", "TLE", "MLE", "OLE", "RTE", "RFE", "CE", "JE", "VE"))
