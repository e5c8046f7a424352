import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.board import Board, check, load, write_files
from harness.board import statistics as stats
from harness.board.export import COLUMNS
from harness.board.gains import ALL
from harness.records.rows import Absent, AbsentRows, Predictions, Row, write_absent, write_clean, write_row
from tests.harness.synthetic import Pair, Suite, World, clean_of, provenance, row
from zoo.errors import UserError

SUBSTITUTES = ("a-fp", "a-2bit", "a-2bit-ft", "a-2bit-qaa")


def world_rows(world: World) -> list[Row]:
    return [world.row(name, share=0.4 + 0.05 * place) for place, name in enumerate(SUBSTITUTES)]


def board_of(world: World, rows: list[Row], **changes: object) -> Board:
    return Board(world.suite, rows, world.clean, **changes)  # type: ignore[arg-type]


def cells(board: Board) -> dict[tuple[str, str, str], dict[str, str]]:
    read = csv.DictReader(io.StringIO(board.to_csv()))
    return {(line["substitute"], line["seed"], line["target"]): line for line in read}


def fill(folder: Path, world: World, rows: list[Row]) -> None:
    write_clean(folder, world.clean)
    for made in rows:
        write_row(folder, made)


def section(text: str, title: str) -> str:
    return text.split(f"# {title}\n")[1].split("\n#")[0]


def test_cells_are_the_plain_rates_of_each_target() -> None:
    world = World()
    made = world.row("a-2bit")
    found = cells(board_of(world, [made]))
    assert len(found) == len(world.targets)
    for target, outcome in made.outcomes.items():
        line = found["a-2bit", "0", target]
        success = stats.asr(outcome.clean.array, outcome.adv.array, world.labels)
        error = stats.error_rate(outcome.adv.array, world.labels)
        floor = stats.error_rate(outcome.clean.array, world.labels)
        assert success and error and floor
        expected = [success.value, success.low, success.high, error.value, floor.value]
        shown = [float(line[key]) for key in ("asr", "lo", "hi", "error_rate", "clean_error")]
        assert shown == pytest.approx([100 * value for value in expected], abs=1e-4)
        assert (int(line["n"]), int(line["n_correct"])) == (200, success.n)
        assert line["whitebox"] == ("true" if target == "a-2bit" else "false")
    assert list(found["a-2bit", "0", "a-fp"]) == list(COLUMNS)


def test_family_mean_is_that_of_its_black_box_targets() -> None:
    world = World()
    board = board_of(world, [world.row("a-2bit")])
    found = cells(board)
    data = board.to_json()["rows"][0]
    quantised = [float(found["a-2bit", "0", target]["asr"]) for target in ("b-2bit", "b-4bit")]
    full = [float(found["a-2bit", "0", target]["asr"]) for target in ("a-fp", "b-fp")]
    assert data["families"]["Quantised"]["value"] == pytest.approx(np.mean(quantised), abs=1e-3)
    assert data["families"]["Full precision"]["value"] == pytest.approx(np.mean(full), abs=1e-3)
    assert data["asr"]["value"] == pytest.approx((np.mean(quantised) + np.mean(full)) / 2, abs=1e-3)
    by_bits = {entry["bits"]: entry["asr"] for entry in data["bits"]}
    assert by_bits[2]["value"] == pytest.approx(float(found["a-2bit", "0", "b-2bit"]["asr"]), abs=1e-3)
    assert data["whitebox"] == ["a-2bit"]


def test_bitwidths_of_different_families_stay_apart() -> None:
    families = {"Standard": ["a-fp"], "Adversarial": ["b-fp"], "Quantised": ["b-2bit"]}
    world = World(Suite(families=families, bits={"a-fp": 32, "b-fp": 32, "b-2bit": 2}))
    board = board_of(world, [world.row("a-2bit")])
    headers = section(board.to_markdown(), "By bitwidth of the target").strip().splitlines()[2]
    assert [h.strip() for h in headers.split("|")[3:-1]] == ["32 bit, Standard", "32 bit, Adversarial", "2 bit"]
    bits = {(entry["bits"], entry["family"]): entry["asr"]["value"] for entry in board.to_json()["rows"][0]["bits"]}
    found = cells(board)
    assert bits[32, "Adversarial"] == pytest.approx(float(found["a-2bit", "0", "b-fp"]["asr"]), abs=1e-3)
    assert _axis(board.frame, [True, True, True]) == {
        32: ("Standard", [True, False, False]),
        2: ("Quantised", [False, False, True]),
    }
    assert _axis(board.frame, [False, True, True])[32] == ("Adversarial", [False, True, False])


def test_a_curve_over_bitwidths_keeps_to_one_architecture_where_it_can() -> None:
    families = {"A": ["a-fp"], "B": ["b-fp", "b-2bit"]}
    world = World(Suite(families=families, bits={"a-fp": 32, "b-fp": 32, "b-2bit": 2}))
    frame = board_of(world, [world.row("a-2bit")]).frame
    assert _axis(frame, [True, True, True]) == {32: ("B", [False, True, False]), 2: ("B", [False, False, True])}
    assert _axis(frame, [True, True, False]) == {32: ("A", [True, False, False])}


def _axis(frame: Any, usable: list[bool]) -> dict[int, tuple[str, list[bool]]]:
    return {width: (title, group.tolist()) for width, (title, group) in frame.widths(np.array(usable)).items()}


def test_attack_that_does_nothing_scores_zero_and_the_clean_error() -> None:
    world = World()
    nothing = row({t: (world.predicted[t].tolist(), world.predicted[t].tolist()) for t in world.targets})
    board = board_of(world, [nothing])
    for line in cells(board).values():
        assert float(line["asr"]) == 0 and line["error_rate"] == line["clean_error"]
    floors = [np.mean(world.predicted[t] != world.labels) * 100 for t in ("a-fp", "b-fp")]
    shown = section(board.to_markdown(), "Error rate and clean error").splitlines()[-1].split("|")[-3].strip()
    assert shown == f"{np.mean(floors):.1f} / {np.mean(floors):.1f}"


def test_target_without_a_correct_image_is_no_data() -> None:
    world = World(Suite(families={"Only": ["a-fp"]}, bits={"a-fp": 32}, pairs=()), images=4)
    wrong = ((world.labels + 1) % 10).tolist()
    clean = clean_of({"a-fp": wrong}, world.labels.tolist())
    board = Board(world.suite, [row({"a-fp": (wrong, wrong)})], clean)
    line = cells(board)["a-2bit", "0", "a-fp"]
    assert (line["asr"], line["lo"], line["n_correct"], line["error_rate"]) == ("", "", "0", "100.0000")
    assert "no data" in board.to_markdown() and "nan" not in board.to_markdown().lower()
    assert board.to_json()["rows"][0]["asr"] is None


def test_gain_equals_a_paired_comparison_by_hand() -> None:
    world = World()
    rows = world_rows(world)
    board = board_of(world, rows)
    by_name = {made.substitute: made for made in rows}
    a, b = by_name["a-2bit-qaa"], by_name["a-2bit"]
    names = ["b-2bit", "b-4bit"]
    right = np.array([a.outcomes[t].clean.array == world.labels for t in names])
    wrong_a = np.array([a.outcomes[t].adv.array != world.labels for t in names])
    wrong_b = np.array([b.outcomes[t].adv.array != world.labels for t in names])
    gain = next(g for g in board.gains if (g.against, g.family) == ("a-2bit", "Quantised"))
    assert gain.gain.value == pytest.approx(
        np.mean(((wrong_a & right).sum(1) - (wrong_b & right).sum(1)) / right.sum(1))
    )
    assert gain.gain == stats.Pairing(wrong_a, wrong_b, right).gain()
    assert gain.targets == 2 and gain.role == "baseline"


def test_gains_are_against_the_baseline_and_each_control_and_holm_adjusted_together() -> None:
    world = World()
    board = board_of(world, world_rows(world))
    asked = {(g.against, g.role, g.family) for g in board.gains}
    families = (ALL, "Full precision", "Quantised")
    assert asked == {
        *(("a-2bit", "baseline", family) for family in families),
        *(("a-2bit-ft", "control", family) for family in families),
    }
    for overall in (True, False):
        group = [g for g in board.gains if (g.family == ALL) == overall]
        assert [g.p_holm for g in group] == stats.holm([g.gain.p for g in group])


def test_gain_is_never_measured_on_a_target_that_is_white_box_for_either() -> None:
    world = World(Suite(pairs=(Pair("a-2bit", "b-4bit"),)))
    board = board_of(world, [world.row("a-2bit"), world.row("b-4bit")])
    assert {g.family: g.targets for g in board.gains} == {ALL: 3, "Full precision": 2, "Quantised": 1}


def test_gain_needs_the_same_settings_of_the_attack() -> None:
    world = World()
    board = board_of(world, [world.row("a-2bit"), world.row("a-2bit-qaa", composition="Attack(decay=0.0)")])
    assert not board.gains and any("differ in their settings" in remark for remark in board.remarks)


def test_seeds_are_averaged_per_image_and_their_spread_is_shown() -> None:
    world = World()
    rows = [world.row("a-2bit", share=share, seed=seed) for seed, share in enumerate((0.3, 0.5))]
    board = board_of(world, rows)
    assert len(board.lines) == 1 and board.lines[0].seeds == (0, 1)
    single = [board_of(world, [made]).lines[0].overall for made in rows]
    overall = board.lines[0].overall
    assert overall and single[0] and single[1]
    assert overall.value == pytest.approx((single[0].value + single[1].value) / 2)
    assert board.lines[0].seed_overall() == pytest.approx([single[0].value, single[1].value])
    sd = 100 * abs(single[0].value - single[1].value) / np.sqrt(2)
    assert f"2 (SD {sd:.1f})" in board.to_markdown()
    assert len(cells(board)) == 2 * len(world.targets)


def test_the_same_seed_twice_is_refused() -> None:
    world = World()
    with pytest.raises(UserError, match="seed 0 occurs twice"):
        board_of(world, [world.row("a-2bit"), world.row("a-2bit")])


def test_seeds_on_fewer_images_or_with_other_settings_are_left_out_by_name() -> None:
    world = World()
    whole = world.row("a-2bit", seed=0)
    rows = [whole, world.row("a-2bit", seed=1, limit=50), world.row("a-2bit", seed=2, composition="Attack(decay=0.0)")]
    board = board_of(world, rows)
    assert board.lines[0].seeds == (0,) and cells(board) == cells(board_of(world, [whole]))
    assert any("seed 1: left out, it has 50 images and others 200" in remark for remark in board.remarks)
    assert any("seed 2: left out, its attack is Attack(decay=0.0)" in remark for remark in board.remarks)


def test_white_box_cells_are_marked_and_no_others() -> None:
    world = World()
    table = section(board_of(world, [world.row("a-2bit")]).to_markdown(), "Quantised").splitlines()[-1]
    assert [cell.strip()[-1] == "*" for cell in table.strip("|").split("|")[2:]] == [True, False, False]


def test_missing_cell_is_a_dash_with_its_reason_and_never_zero() -> None:
    world = World()
    made = world.row("a-2bit")
    outcomes = {t: (o.clean.array.tolist(), o.adv.array.tolist()) for t, o in made.outcomes.items() if t != "b-4bit"}
    board = board_of(world, [row(outcomes, failures={"b-4bit": "weights are 404"}), world.row("a-fp")])
    text = board.to_markdown()
    assert "– (1)" in text and "- (1) weights are 404" in text
    assert section(text, "Quantised").splitlines()[-2].split("|")[-2].strip() == "– (1)"
    line = cells(board)["a-2bit", "0", "b-4bit"]
    assert (line["asr"], line["error_rate"], line["n"], line["missing"]) == ("", "", "0", "weights are 404")
    ranks = {(r["substitute"]): r["rank"] for r in board.to_json()["rows"]}
    assert ranks == {"a-fp": 1, "a-2bit": None}
    assert "†" in section(text, "Attack success rate") and "†" in board.to_text()


def test_target_that_the_row_does_not_name_is_missing() -> None:
    world = World()
    made = world.row("a-2bit")
    outcome = made.outcomes["a-fp"]
    board = board_of(world, [row({"a-fp": (outcome.clean.array.tolist(), outcome.adv.array.tolist())})])
    assert cells(board)["a-2bit", "0", "b-2bit"]["missing"] == "not scored"


def test_row_whose_targets_all_failed_is_shown() -> None:
    world = World()
    board = board_of(world, [row({}, failures=dict.fromkeys(world.targets, "no memory")), world.row("a-fp")])
    assert board.to_markdown().count("no memory") == 1 and "| a-2bit " in board.to_markdown()


def test_absent_row_is_shown_with_its_reason_until_it_is_there() -> None:
    world = World()
    absent = [Absent(substitute="c-2bit", attack="mim", reason="no weights: zoo build c-2bit")]
    board = board_of(world, [world.row("a-2bit")], absent=absent)
    assert "| c-2bit " in board.to_markdown() and "(1) no weights: zoo build c-2bit" in board.to_markdown()
    assert "c-2bit" in board.to_text() and board.to_json()["absent"][0]["substitute"] == "c-2bit"
    assert not board_of(world, [world.row("c-2bit")], absent=absent).absent


def test_row_of_another_digest_is_refused_with_the_reason() -> None:
    world = World()
    board = board_of(world, [world.row("a-2bit"), world.row("a-fp", suite_digest="e" * 64)])
    assert [line.substitute for line in board.lines] == ["a-2bit"]
    assert "a-fp--mim--s0.json: it was made under suite digest eeeeeeeeeeee, not dddddddddddd" in board.to_markdown()
    with pytest.raises(UserError, match=r"no row belongs on this board; .*eeeeeeeeeeee"):
        board_of(world, [world.row("a-fp", suite_digest="e" * 64)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"suite": "other"}, "for the suite 'other'"),
        ({"max_level": 33}, "33 levels, more than the budget of 32"),
    ],
)
def test_row_outside_the_suite_is_refused(change: dict[str, object], reason: str) -> None:
    world = World()
    board = board_of(world, [world.row("a-2bit"), world.row("a-fp", **change)])
    assert reason in board.refused[0]


def test_row_with_too_few_images_is_refused_unless_it_says_so() -> None:
    world = World()
    short = {t: (p[:50].tolist(), p[:50].tolist()) for t, p in world.predicted.items()}
    board = board_of(world, [world.row("a-fp"), row(short)])
    assert "50 predictions per target where 200" in board.refused[0]


def test_clean_predictions_of_another_suite_are_refused() -> None:
    world = World()
    with pytest.raises(UserError, match=r"clean.json was made under suite digest eeee"):
        Board(world.suite, [], clean_of(world.predicted, world.labels.tolist(), suite_digest="e" * 64))


def test_a_row_cannot_choose_which_images_count() -> None:
    world = World()
    made = world.row("a-2bit")
    lying = {t: (world.labels.tolist(), o.adv.array.tolist()) for t, o in made.outcomes.items()}
    honest, board = board_of(world, [made]), board_of(world, [row(lying)])
    assert cells(board)["a-2bit", "0", "a-fp"]["asr"] == cells(honest)["a-2bit", "0", "a-fp"]["asr"]
    assert any("predicts otherwise than in clean.json" in remark for remark in board.remarks)


def test_limited_rows_are_measured_on_their_images_and_not_ranked_with_whole_ones() -> None:
    world = World()
    board = board_of(world, [world.row("a-2bit"), world.row("a-fp", share=0.9, limit=50)])
    ranks = {r["substitute"]: (r["rank"], r["images"]) for r in board.to_json()["rows"]}
    assert ranks == {"a-2bit": (1, 200), "a-fp": (None, 50)}
    alone = board_of(world, [world.row("a-fp", limit=50)])
    assert "the first 50 of 200 images" in alone.to_markdown() and alone.to_json()["rows"][0]["rank"] == 1


def test_ranks_fall_with_the_rate_and_ties_share_one() -> None:
    world = World()
    first, low = world.row("a-2bit", share=0.8), world.row("a-fp", share=0.2)
    outcomes = {t: (o.clean.array.tolist(), o.adv.array.tolist()) for t, o in first.outcomes.items()}
    suite = Suite(families={"Only": ["b-fp"]}, bits={"b-fp": 32})
    board = Board(suite, [low, first, row(outcomes, substitute="c-2bit")], world.clean)
    assert [(r["rank"], r["substitute"]) for r in board.to_json()["rows"]] == [
        (1, "a-2bit"),
        (1, "c-2bit"),
        (3, "a-fp"),
    ]


def test_ranks_use_only_targets_that_are_black_box_for_every_line() -> None:
    world = World(Suite(pairs=()))
    easy, hard = world.row("a-2bit", share=0.3), world.row("b-fp", share=0.4)
    outcomes = dict(easy.outcomes)
    outcomes["b-fp"] = outcomes["b-fp"].model_copy(update={"adv": Predictions((world.labels + 1) % 10)})
    board = board_of(world, [world.row("a-2bit", outcomes=outcomes), hard])
    data = board.to_json()["rows"]
    assert [(r["rank"], r["substitute"]) for r in data] == [(1, "b-fp"), (2, "a-2bit")]
    found = cells(board)
    quantised = np.mean([float(found["a-2bit", "0", target]["asr"]) for target in ("b-2bit", "b-4bit")])
    common = (float(found["a-2bit", "0", "a-fp"]["asr"]) + quantised) / 2
    assert data[1]["asr"]["value"] == pytest.approx(common, abs=1e-3)
    assert "Common targets" in board.to_markdown() and "All families" not in board.to_text()


def test_without_a_common_target_there_is_no_rank() -> None:
    world = World(Suite(families={"Two": ["a-fp", "b-fp"]}, bits={"a-fp": 32, "b-fp": 32}, pairs=()))
    board = board_of(world, [world.row("a-fp", share=0.2), world.row("b-fp", share=0.6)])
    assert [(r["rank"], r["substitute"]) for r in board.to_json()["rows"]] == [(None, "b-fp"), (None, "a-fp")]


def test_tiers_of_evidence_are_ranked_and_compared_apart_unless_mixed() -> None:
    world = World()
    rows = [world.row("a-2bit"), world.row("a-2bit-qaa", share=0.6, evidence="claimed")]
    apart, mixed = board_of(world, rows), board_of(world, rows, mixed=True)
    assert [r["rank"] for r in apart.to_json()["rows"]] == [1, 1] and not apart.gains
    assert "## Attack success rate: claimed" in apart.to_markdown()
    assert [(r["rank"], r["evidence"]) for r in mixed.to_json()["rows"]] == [(1, "claimed"), (2, "regenerated")]
    assert mixed.gains and "regenerated" in section(mixed.to_markdown(), "QAA gain")
    assert {line["evidence"] for line in cells(apart).values()} == {"claimed", "regenerated"}


def test_board_of_no_rows_is_a_board() -> None:
    world = World()
    board = board_of(world, [])
    assert "No rows yet." in board.to_markdown() and board.to_json()["rows"] == [] and "No rows yet." in board.to_text()


def test_markdown_says_what_was_measured_and_defines_its_terms() -> None:
    world = World()
    text = board_of(world, world_rows(world)).to_markdown()
    assert text.startswith("# A made-up suite\n")
    assert "`made-up v1` · 200 images · 5 targets · L∞ budget 32/255 · 10 steps · digest `dddddddddddd`" in text
    for term in ("**ASR**", "**Family mean**", "**Error rate**", "**Gain**", "**p**", "white-box"):
        assert term in text
    assert "None" not in text and "nan" not in text.lower()
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_numbers_are_right_aligned_with_one_decimal() -> None:
    world = World()
    table = section(board_of(world, world_rows(world)).to_markdown(), "Attack success rate").strip().splitlines()[2:]
    assert [cell[-1] for cell in table[1].strip("|").split("|")] == [":", "-", "-", ":", ":", ":"]
    assert all(cell.strip().split()[0].partition(".")[2].isdigit() for cell in table[2].strip("|").split("|")[3:])


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    world = World(Suite(families={"A|B": ["a-fp"]}, bits={"a-fp": 32}))
    assert "A\\|B" in board_of(world, [world.row("a-2bit")]).to_markdown()


def test_text_fits_a_terminal_of_120_columns() -> None:
    targets = {f"Family number {i}": [f"f{i}-a", f"f{i}-b"] for i in range(4)}
    bits = {t: 32 for family in targets.values() for t in family}
    world = World(Suite(families=targets, bits=bits, pairs=(Pair("digits-resnet14-2bit-qaa", "digits-resnet14"),)))
    rows = [world.row(f"digits-resnet14-n{i}", seed=s) for i in range(8) for s in (0, 1)]
    rows += [world.row("digits-resnet14"), world.row("digits-resnet14-2bit-qaa")]
    shown = board_of(world, rows).to_text()
    assert max(len(line) for line in shown.splitlines()) <= 120 and "QAA gain" in shown


def test_check_agrees_with_what_was_written_and_names_what_differs(tmp_path: Path) -> None:
    world = World()
    fill(tmp_path, world, world_rows(world))
    write_files(load(tmp_path, world.suite), tmp_path)
    assert check(tmp_path, world.suite) == []
    path = tmp_path / "board.md"
    path.write_text(path.read_text().replace("| a-fp ", "| a-xx ", 1))
    (tmp_path / "board.csv").unlink()
    problems = check(tmp_path, world.suite)
    assert len(problems) == 2 and "a-xx" in problems[0] and "board.csv is missing" in problems[1]


def test_check_sees_one_changed_outcome(tmp_path: Path) -> None:
    world = World()
    made = world.row("a-2bit")
    fill(tmp_path, world, [made])
    write_files(load(tmp_path, world.suite), tmp_path)
    outcomes = {t: (o.clean.array.tolist(), o.adv.array.tolist()) for t, o in made.outcomes.items()}
    place = int(np.flatnonzero(world.predicted["b-fp"] == world.labels)[0])
    outcomes["b-fp"][1][place] = (
        (outcomes["b-fp"][1][place] + 1) % 10
        if outcomes["b-fp"][1][place] == world.labels[place]
        else int(world.labels[place])
    )
    write_row(tmp_path, row(outcomes))
    assert {Path(p.split()[0]).name for p in check(tmp_path, world.suite)} == {"board.md", "board.csv", "board.json"}


def test_absent_rows_are_read_from_their_folder(tmp_path: Path) -> None:
    world = World()
    fill(tmp_path, world, [world.row("a-2bit")])
    write_absent(tmp_path, AbsentRows(rows=(Absent(substitute="z", attack="mim", reason="gone"),)))
    assert load(tmp_path, world.suite).absent[0].reason == "gone"


def test_json_is_plain_data_without_nan() -> None:
    world = World()
    board = board_of(world, world_rows(world))
    text = board.files()["board.json"]
    assert json.loads(text) == json.loads(json.dumps(board.to_json(), allow_nan=False))
    assert sum(line.startswith('  {"name":') for line in text.splitlines()) == len(SUBSTITUTES)


def test_board_does_not_depend_on_the_order_of_rows() -> None:
    world = World()
    rows = world_rows(world)
    assert board_of(world, rows).files() == board_of(world, rows[::-1]).files()


def test_board_does_not_import_torch() -> None:
    code = "import sys, harness.board, harness.board.statistics, harness.records.rows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_whitebox_is_the_suites_to_say() -> None:
    class Same(Suite):
        def whitebox(self, substitute: str, target: str) -> bool:
            return substitute[0] == target[0]

    world = World()
    suite = replace(Same(), families={"A": ["a-fp", "a-2bit"], "B": ["b-fp"]})
    board = Board(suite, [world.row("a-fp")], world.clean)
    assert board.to_json()["rows"][0]["families"]["A"] is None
    assert "–*" in section(board.to_markdown(), "Attack success rate") and "–*" in board.to_text()
    assert board.to_json()["rows"][0]["rank"] == 1


def test_gains_over_all_families_are_adjusted_apart_from_those_of_each() -> None:
    """Two attacks, three families: 2 tests of the first kind and 6 of the second."""
    families = {"A": ["a-fp", "a-2bit"], "B": ["b-fp"], "C": ["b-2bit"]}
    world = World(Suite(families=families, pairs=(Pair("b-2bit", "b-fp", ()),)))
    rows = [world.row(name, attack=attack) for name in ("b-fp", "b-2bit") for attack in ("mim", "pgd")]
    found = board_of(world, rows).gains
    for overall in (True, False):
        group = [row for row in found if (row.family == ALL) == overall]
        assert group and all(row.tests == len(group) for row in group)
        assert [row.p_holm for row in group] == stats.holm([row.gain.p for row in group])
    text = board_of(world, rows).to_markdown()
    counts = [sum(row.family == ALL for row in found), sum(row.family != ALL for row in found)]
    assert f"adjusted over {counts[0]} gains over all families, and apart from them over {counts[1]} gains of" in text


def test_a_family_whose_lines_take_other_targets_is_marked() -> None:
    world = World()
    board = Board(world.suite, [world.row("a-fp"), world.row("x")], world.clean)  # a-fp is a target of the first family
    header = next(line for line in board.to_markdown().splitlines() if "Substitute" in line)
    assert "Full precision ‡" in header and "Quantised ‡" not in header
    assert "**‡** lines are averaged over different targets" in board.to_markdown() and "‡ lines" in board.to_text()
    plain = Board(world.suite, [world.row("x"), world.row("y")], world.clean)
    assert "‡" not in plain.to_markdown() + plain.to_text()


def test_rows_of_several_states_of_the_code_are_told_on_the_board() -> None:
    world = World()
    old, new = (provenance(code=letter * 64) for letter in "ab")
    rows = [world.row("x", provenance=old), world.row("y", provenance=new), world.row("a-fp", provenance=provenance())]
    remark = Board(world.suite, rows, world.clean).remarks
    assert any("made by 2 states of the code" in line and "a" * 12 in line and "b" * 12 in line for line in remark)
    assert not Board(world.suite, [rows[0], rows[2]], world.clean).remarks
