"""The plan that a callback has made, kept beside what it was made for, so that a resumed run trains the same."""

from __future__ import annotations

from pathlib import Path

from ..plan.plan import Plan
from ..system.files import read_json, write_json

PLAN, REQUEST = "plan.json", "request.json"


def keep(plan: Plan, folder: Path, request: str) -> None:
    """Write the plan and, last, the digest of everything that it follows from."""
    plan.save(folder / PLAN)
    write_json(folder / REQUEST, {"kind": "request", "version": 1, "request": request, "plan": plan.hash})


def kept(folder: Path, request: str) -> Plan | None:
    """The plan that was kept for this request; None if there is none, or if another one lies there."""
    record = read_json(folder / REQUEST, "request") if (folder / REQUEST).exists() else {}
    if record.get("request") != request:
        return None
    plan = Plan.load(folder / PLAN)
    # A callback with a ready plan may have written its own there since.
    return plan if plan.hash == record.get("plan") else None
