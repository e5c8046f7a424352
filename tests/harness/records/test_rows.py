import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.records.provenance import provenance as here
from harness.records.rows import (
    Absent,
    AbsentRows,
    Cost,
    Row,
    Size,
    read_absent,
    read_clean,
    read_row,
    read_rows,
    write_absent,
    write_clean,
    write_row,
)
from tests.harness.synthetic import World, clean_of, provenance, row
from zoo.errors import UserError

OUTCOMES = {"t1": ([0, 1, 2], [1, 1, 0]), "t2": ([0, 0, 2], [0, 1, 2])}


def test_row_survives_the_disk(tmp_path: Path) -> None:
    made = row(OUTCOMES, failures={"t3": "no weights"}, notes="±")
    path = write_row(tmp_path, made)
    assert path == tmp_path / "rows" / "a-2bit--mim--s0.json"
    assert read_row(path) == made and list(read_rows(tmp_path)) == [made]


def test_row_file_is_named_after_its_tier() -> None:
    assert row(OUTCOMES, evidence="claimed", seed=3).filename == "a-2bit--mim--s3--claimed.json"


def test_rows_from_before_sizes_were_measured_are_read_and_keep_their_digest() -> None:
    """The size follows from the images, whose digest is in the canonical row; so old and new rows have one canonical form."""
    made = row({"a": ([1, 2], [2, 2])})
    sized = made.model_copy(update={"size": Size(l2=1.0, ssim=0.5)})
    assert sized.canonical() == made.canonical() and b"size" not in made.canonical()
    old = json.loads(made.model_dump_json())
    del old["size"]
    assert Row.model_validate_json(json.dumps(old)) == made


def test_canonical_rows_leave_out_the_times_alone() -> None:
    made = row(OUTCOMES)
    later = row(
        OUTCOMES,
        cost=Cost(forwards=10, backwards=10, seconds=9.0, device="cpu"),
        provenance=provenance(created="2027-01-01T00:00:00Z"),
    )
    assert made.canonical() == later.canonical() and made.digest == later.digest


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"max_level": 31},
        {"composition": "Attack(decay=0.9)"},
        {"images_sha256": "0" * 64},
        {"evidence": "claimed"},
        {"notes": "n"},
        {"cost": Cost(forwards=11, backwards=10, seconds=1.5, device="cpu")},
        {"cost": Cost(forwards=10, backwards=10, seconds=1.5, device="cuda:0")},
        {"provenance": provenance(torch="2.8")},
    ],
)
def test_everything_else_changes_the_digest(change: dict[str, Any]) -> None:
    assert row(OUTCOMES, **change).digest != row(OUTCOMES).digest


def test_one_outcome_changes_the_digest() -> None:
    changed = {**OUTCOMES, "t1": ([0, 1, 2], [1, 1, 2])}
    assert row(changed).digest != row(OUTCOMES).digest


def test_digest_does_not_depend_on_the_order_of_targets_or_on_the_packing(tmp_path: Path) -> None:
    made = row(OUTCOMES)
    assert row(dict(reversed(OUTCOMES.items()))).digest == made.digest
    assert read_row(write_row(tmp_path, made)).digest == made.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcomes": {}}, "needs an outcome or a failure"),
        ({"failures": {"t1": "x"}}, "has an outcome and a failure"),
        ({"limit": 2}, "limit is 2"),
        ({"max_level": -1}, "max_level"),
        ({"substitute": "../x"}, "substitute"),
        ({"suite_digest": "abc"}, "suite_digest"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_inconsistent_rows_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        row(OUTCOMES, **change)


def test_outcomes_must_be_of_the_same_images() -> None:
    with pytest.raises(ValidationError, match="3 predictions but adv has 2"):
        row({"t": ([0, 1, 2], [0, 1])})
    with pytest.raises(ValidationError, match="different numbers"):
        row({"t": ([0], [0]), "u": ([0, 1], [0, 1])})


@pytest.mark.parametrize(
    ("damage", "key"),
    [
        (lambda d: d["outcomes"]["t1"].update(adv="!"), r"outcomes\.t1\.adv: damaged predictions"),
        (lambda d: d.update(seed="0"), "seed: input should be a valid integer"),
        (lambda d: d.update(schema_version=2), "schema_version: input should be 1"),
        (lambda d: d.pop("images_sha256"), "images_sha256: field required"),
        (lambda d: d["cost"].update(joules=3), r"cost\.joules: extra inputs"),
    ],
)
def test_damaged_row_is_named_with_its_key(tmp_path: Path, damage: Any, key: str) -> None:
    path = write_row(tmp_path, row(OUTCOMES))
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=key) as caught:
        read_row(path)
    assert str(path) in str(caught.value) and "run the suite again" in str(caught.value)


def test_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = write_row(tmp_path, row(OUTCOMES))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="the file as a whole: invalid JSON"):
        read_row(path)


def test_row_under_another_name_is_refused(tmp_path: Path) -> None:
    path = write_row(tmp_path, row(OUTCOMES))
    path.rename(path.with_name("copy.json"))
    with pytest.raises(UserError, match=r"holds the row of a-2bit--mim--s0\.json"):
        list(read_rows(tmp_path))


def test_clean_survives_the_disk(tmp_path: Path) -> None:
    clean = World(images=20).clean
    write_clean(tmp_path, clean)
    assert read_clean(tmp_path) == clean


def test_clean_needs_one_prediction_and_one_id_per_image() -> None:
    with pytest.raises(ValidationError, match="has 2 predictions for 3 images"):
        clean_of({"t": [0, 1]}, [0, 1, 2])
    with pytest.raises(ValidationError, match="1 image ids"):
        clean_of({"t": [0, 1]}, [0, 1], ids=("a",))


def test_absent_rows_come_and_go(tmp_path: Path) -> None:
    absent = AbsentRows(rows=(Absent(substitute="a", attack="mim", reason="no weights"),))
    write_absent(tmp_path, absent)
    assert read_absent(tmp_path) == absent
    write_absent(tmp_path, AbsentRows(rows=()))
    assert read_absent(tmp_path).rows == () and not list(tmp_path.iterdir())


def test_provenance_describes_this_process() -> None:
    made = here()
    assert made.torch not in ("", "unknown") and made.python.count(".") >= 1
    assert Row.model_validate_json(row(OUTCOMES, provenance=made).model_dump_json()).provenance == made
