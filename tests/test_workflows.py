"""The workflows give a stranger's pull request nothing: no secrets, no writing, no shell to inject into, no voice of ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parent.parent / ".github"
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.yml"))
COMMENT = FOLDER / "workflows" / "submission-comment.yml"


def read(path: Path) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def writes(permissions: dict[str, str]) -> list[str]:
    return [scope for scope, level in permissions.items() if level == "write"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_is_closed_to_strangers(path: Path) -> None:
    text, content = path.read_text(encoding="utf-8"), read(path)
    assert "pull_request_target" not in text
    assert "secrets." not in text
    assert "permissions" in content and not writes(content["permissions"])
    for job in content["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "an expression in a shell is a way to inject into it"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: (\S+)( # v[\d.]+)?", path.read_text(encoding="utf-8"))
    assert used
    for action, version in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action), action
        assert version, f"{action}: say which version that is"


def test_only_the_jobs_that_comment_and_publish_may_write_and_they_run_nothing_of_anybodys() -> None:
    jobs = {(path.name, name): job for path in WORKFLOWS for name, job in read(path)["jobs"].items()}
    writing = [key for key, job in jobs.items() if writes(job.get("permissions", {}))]
    publish = ("pages.yml", "publish")
    assert set(writing) == {("submission-comment.yml", "comment"), publish}
    assert set(read(FOLDER / "workflows" / "pages.yml")[True]) == {"push", "workflow_dispatch"}, "what main holds is published"
    assert jobs[publish]["permissions"] == {"pages": "write", "id-token": "write"}
    assert [step["uses"].split("@")[0] for step in jobs[publish]["steps"]] == ["actions/deploy-pages"]
    job = jobs["submission-comment.yml", "comment"]
    assert job["permissions"] == {"pull-requests": "write"}
    assert not any("checkout" in step.get("uses", "") for step in job["steps"])
    assert not re.search(r"harness|python|pip|bash|source ", commands(job))


def checkouts(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {s["with"]["path"]: s["with"] for s in job["steps"] if s.get("uses", "").startswith("actions/checkout")}


@pytest.mark.parametrize(
    ("name", "job", "trusted"),
    [("submission.yml", "review", "base.sha"), ("submission-comment.yml", "make", "github.sha")],
)
def test_the_review_runs_trusted_code_over_the_files_of_the_pull_request(name: str, job: str, trusted: str) -> None:
    content = read(FOLDER / "workflows" / name)["jobs"][job]
    found = checkouts(content)
    assert trusted in found["base"]["ref"]
    assert all(checkout["persist-credentials"] is False for checkout in found.values())
    text = commands(content)
    assert re.search(r"pip\" install .*\./base", text)
    for line in text.splitlines():  # what is run over the pull request's files reads them: git, and our own command
        if re.search(r"(?:^|[\s/])head(?:$|[\s/\"])", line):
            assert re.search(r"^\s*(venv/bin/harness submit review|test |parent=\$\(git -C head )", line), line


def test_the_comment_is_built_by_trusted_code() -> None:
    content = read(COMMENT)
    assert list(content[True]) == ["workflow_run"]  # YAML reads the key `on` as true; such a workflow is the default branch's
    job = content["jobs"]["make"]
    assert "harness submit review" in commands(job) and "--make digits-qnn" in commands(job)
    assert 'rev-parse HEAD^2)" = "$SHA"' in commands(job), "what is judged is what the run was about"
    assert "merge-base --is-ancestor" in commands(job), "what it is compared with is the default branch's"
    steps = content["jobs"]["comment"]["steps"]
    (download,) = [s for s in steps if "download-artifact" in s.get("uses", "")]
    assert "run-id" not in download["with"], "from this very run, not from the pull request's"
    assert "gh run download" not in commands(content["jobs"]["comment"])


def test_nothing_is_posted_without_a_report() -> None:
    content = read(COMMENT)
    assert content["jobs"]["comment"]["if"] == "needs.make.outputs.written == 'yes'"
    assert "test -f report.md" in commands(content["jobs"]["make"])


def test_the_review_of_a_pull_request_starts_for_rows_and_for_bundles() -> None:
    paths = read(FOLDER / "workflows" / "submission.yml")[True]["pull_request"]["paths"]
    assert {"submissions/**", "leaderboards/**"} <= set(paths)


@pytest.mark.parametrize("path", sorted((FOLDER / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.name)
def test_an_issue_form_is_one(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert all(part["type"] in kinds and part["attributes"] for part in form["body"])
