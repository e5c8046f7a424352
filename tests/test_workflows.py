"""The workflows give a stranger's pull request nothing: no secrets, no writing, no shell to inject into."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parent.parent / ".github"
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.yml"))


def read(path: Path) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_is_closed_to_strangers(path: Path) -> None:
    text, content = path.read_text(encoding="utf-8"), read(path)
    assert "pull_request_target" not in text
    assert "secrets." not in text
    triggers, permissions = content[True], content["permissions"]  # YAML reads the key `on` as true
    writes = [scope for scope, level in permissions.items() if level == "write"]
    assert writes == (["pull-requests"] if "workflow_run" in triggers else [])
    for job in content["jobs"].values():
        assert "permissions" not in job
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "an expression in a shell is a way to inject into it"
            if step.get("uses", "").startswith("actions/checkout"):
                assert "workflow_run" not in triggers


def test_the_review_runs_the_code_of_the_base_branch_over_the_files_of_the_pull_request() -> None:
    steps = read(FOLDER / "workflows" / "submission.yml")["jobs"]["review"]["steps"]
    checkouts = {s["with"]["path"]: s["with"] for s in steps if s.get("uses", "").startswith("actions/checkout")}
    assert "base.sha" in checkouts["base"]["ref"]
    assert all(checkout["persist-credentials"] is False for checkout in checkouts.values())
    commands = "\n".join(s.get("run", "") for s in steps)
    assert re.search(r"pip\" install .*\./base", commands)
    assert "/head" not in commands.replace("$GITHUB_WORKSPACE/head/leaderboards", "")


@pytest.mark.parametrize("path", sorted((FOLDER / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.name)
def test_an_issue_form_is_one(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert all(part["type"] in kinds and part["attributes"] for part in form["body"])
