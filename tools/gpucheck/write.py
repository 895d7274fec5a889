"""Where the report goes: `gpucheck.json` and `report.md` in the check's folder, anew after every part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.gpucheck import report
from tools.gpucheck.parts import Part, read_records, write_json


def write_report(out: Path, parts: Sequence[Part], pending: Sequence[str]) -> None:
    """`parts` are all there are: records of earlier calls belong to the report, whatever was asked now."""
    records = read_records(out, parts)
    failed = {name for name, record in records.items() if record["status"] == "failed"}
    waiting = [name for name in pending if name not in failed]
    write_json(out / "gpucheck.json", report.as_json(records, waiting))
    (out / "report.md").write_text(report.markdown(records, waiting), encoding="utf-8")
