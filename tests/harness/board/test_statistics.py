import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.board import statistics as stats


def test_wilson_equals_scipy() -> None:
    for successes, n in [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (500, 1000), (999, 1000)]:
        expected = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert stats.wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_reaches_zero_and_one_exactly() -> None:
    assert stats.wilson(0, 7)[0] == 0.0
    assert stats.wilson(7, 7)[1] == 1.0


def test_asr_counts_only_originally_correct_images() -> None:
    labels = [0, 1, 2, 3, 4, 5]
    clean = [0, 1, 2, 3, 9, 9]
    adv = [1, 1, 0, 3, 4, 0]
    rate = stats.asr(clean, adv, labels)
    assert rate is not None and (rate.value, rate.n) == (0.5, 4)
    assert (rate.low, rate.high) == pytest.approx((0.1500, 0.8500), abs=1e-4)


def test_error_rate_counts_all_images() -> None:
    rate = stats.error_rate([1, 1, 0, 3, 4, 0], [0, 1, 2, 3, 4, 5])
    assert rate is not None and (rate.value, rate.n) == (0.5, 6)


def test_no_correct_image_is_no_data() -> None:
    assert stats.asr([1, 1], [0, 0], [0, 0]) is None
    assert stats.asr([], [], []) is None
    assert stats.error_rate([], []) is None


def test_attack_that_does_nothing_has_no_success_and_the_clean_error() -> None:
    labels, clean = np.arange(10) % 3, np.array([0, 1, 2, 0, 1, 2, 1, 2, 0, 1])
    success, error = stats.asr(clean, clean, labels), stats.error_rate(clean, labels)
    assert success is not None and success.value == 0 and success.low == 0
    assert error is not None and error.value == np.mean(clean != labels) == 0.4


def test_rates_refuse_different_lengths() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        stats.asr([1, 2], [1], [1, 2])


def test_mean_of_one_target_is_its_wilson_interval() -> None:
    random = np.random.default_rng(0)
    wrong, counted = random.random((1, 300)) < 0.3, random.random((1, 300)) < 0.8
    rate = stats.Rates(wrong, counted).mean()
    expected = stats.proportion(int((wrong & counted).sum()), int(counted.sum()))
    assert rate is not None and expected is not None
    assert (rate.value, rate.low, rate.high) == pytest.approx((expected.value, expected.low, expected.high), abs=1e-12)
    assert rate.n == expected.n


def test_copies_of_one_target_add_no_certainty() -> None:
    random = np.random.default_rng(1)
    wrong, counted = random.random((1, 200)) < 0.4, random.random((1, 200)) < 0.9
    one, many = stats.Rates(wrong, counted).mean(), stats.Rates(wrong.repeat(8, 0), counted.repeat(8, 0)).mean()
    assert one is not None and many is not None
    assert (many.low, many.high) == pytest.approx((one.low, one.high), abs=1e-12)


def test_independent_targets_add_certainty() -> None:
    random = np.random.default_rng(2)
    wrong = random.random((8, 500)) < 0.4
    everywhere = np.ones_like(wrong)
    one, many = stats.Rates(wrong[:1], everywhere[:1]).mean(), stats.Rates(wrong, everywhere).mean()
    assert one is not None and many is not None
    assert many.high - many.low == pytest.approx((one.high - one.low) / np.sqrt(8), rel=0.1)


def test_mean_over_targets_has_the_variance_of_resampled_images() -> None:
    random = np.random.default_rng(3)
    hard = random.random((1, 400))
    wrong = (0.7 * hard + 0.3 * random.random((5, 400))) < 0.4
    counted = random.random((5, 400)) < np.array([[0.95], [0.9], [0.6], [0.5], [0.99]])
    rate = stats.Rates(wrong, counted).mean()
    means = []
    for _ in range(2000):
        picked = random.integers(0, 400, 400)
        w, c = wrong[:, picked], counted[:, picked]
        means.append(np.mean((w & c).sum(1) / c.sum(1)))
    assert rate is not None
    assert (rate.high - rate.low) / (2 * stats.Z95) == pytest.approx(np.std(means), rel=0.06)


def test_mean_interval_covers_the_truth() -> None:
    random = np.random.default_rng(4)
    hits = 0
    for _ in range(400):
        hard = random.random((1, 120))
        wrong = (0.5 * hard + 0.5 * random.random((4, 120))) < 0.25
        rate = stats.Rates(wrong, np.ones_like(wrong)).mean()
        assert rate is not None
        hits += rate.low <= 0.125 <= rate.high
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_mean_at_the_edge_keeps_a_width(share: float) -> None:
    rate = stats.Rates(np.full((3, 50), share), np.ones((3, 50))).mean()
    assert rate is not None and rate.value == share
    assert (rate.low, rate.high) == stats.wilson(share * 50, 50)


def test_mean_leaves_out_targets_without_data() -> None:
    wrong, counted = np.array([[1.0, 1, 0, 0], [1, 1, 1, 1]]), np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
    rates = stats.Rates(wrong, counted)
    mean = rates.mean()
    assert mean is not None and mean.value == 0.5 and mean.n == 4
    assert rates.mean([0, 1]) is None
    assert stats.Rates(wrong, np.zeros_like(counted)).mean() is None


def test_weights_make_families_count_alike() -> None:
    wrong = np.array([[1.0] * 4, [0] * 4, [0] * 4])
    rate = stats.Rates(wrong, np.ones((3, 4))).mean([0.5, 0.25, 0.25])
    assert rate is not None and rate.value == 0.5


def test_mcnemar_equals_the_exact_binomial_test() -> None:
    for only_a, only_b in itertools.product([0, 1, 3, 10, 57], repeat=2):
        n = only_a + only_b
        expected = scipy_stats.binomtest(only_a, n).pvalue if n else 1.0
        assert stats.mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    assert stats.mcnemar(6, 0) == pytest.approx(2 / 64)
    assert stats.mcnemar(1, 5) == pytest.approx(2 * (1 + 6) / 64)


def test_gain_of_one_target_is_bonett_and_price_with_mcnemars_p() -> None:
    a, b = np.zeros((1, 100)), np.zeros((1, 100))
    a[0, :30], b[0, 20:35] = 1, 1
    gain = stats.Pairing(a, b, np.ones((1, 100))).gain()
    only_a, only_b, n = 20, 5, 100
    pa, pb = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = stats.Z95 * np.sqrt((pa + pb - (pa - pb) ** 2) / (n + 2))
    assert gain is not None
    assert gain.value == pytest.approx(0.15)
    assert (gain.low, gain.high) == pytest.approx((pa - pb - half, pa - pb + half), abs=1e-12)
    assert gain.p == pytest.approx(scipy_stats.binomtest(20, 25).pvalue)
    assert gain.n == 100


def test_gain_ignores_images_that_the_target_gets_wrong_when_clean() -> None:
    a, b = np.array([[1.0, 1, 1, 0]]), np.array([[0.0, 0, 0, 0]])
    gain = stats.Pairing(a, b, np.array([[True, False, False, True]])).gain()
    assert gain is not None and (gain.value, gain.n) == (0.5, 2)


def test_gain_of_equals_is_zero_with_a_width() -> None:
    wrong = np.random.default_rng(0).random((3, 50)) < 0.5
    gain = stats.Pairing(wrong, wrong, np.ones((3, 50))).gain()
    assert gain is not None and gain.value == 0 and gain.p == 1
    assert gain.low < 0 < gain.high and gain.low == pytest.approx(-gain.high)


def test_gain_interval_covers_the_truth_over_correlated_targets() -> None:
    random = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        hard = random.random((1, 150))
        a = (0.5 * hard + 0.5 * random.random((4, 150))) < 0.35
        b = (0.5 * hard + 0.5 * random.random((4, 150))) < 0.25
        gain = stats.Pairing(a, b, np.ones((4, 150))).gain()
        assert gain is not None
        hits += gain.low <= 0.245 - 0.125 <= gain.high
    assert 0.92 <= hits / 400 <= 0.985


def test_copies_of_one_target_add_no_certainty_to_a_gain() -> None:
    random = np.random.default_rng(6)
    a, b, counted = (random.random((1, 200)) < p for p in (0.5, 0.4, 0.9))
    one = stats.Pairing(a, b, counted).gain()
    many = stats.Pairing(a.repeat(6, 0), b.repeat(6, 0), counted.repeat(6, 0)).gain()
    assert one is not None and many is not None
    assert (many.low, many.high, many.p) == pytest.approx((one.low, one.high, one.p), abs=1e-12)


def test_sign_flip_equals_scipys_exact_permutation_test() -> None:
    random = np.random.default_rng(7)
    for _ in range(5):
        d = random.choice([-1, -0.5, 0, 0.5, 1], 11) + 0.1
        expected = scipy_stats.permutation_test(
            (d,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
        ).pvalue
        assert stats.sign_flip(d) == pytest.approx(expected, abs=1e-12)


def test_sign_flip_of_many_images_is_near_the_permutation_test() -> None:
    random = np.random.default_rng(8)
    d = (random.random((7, 200)) < 0.4).mean(0) - (random.random((7, 200)) < 0.37).mean(0)
    flips = random.choice([-1, 1], (20000, 200)) @ np.abs(d)
    assert stats.sign_flip(d) == pytest.approx(np.mean(np.abs(flips) >= abs(d.sum()) - 1e-9), abs=0.015)


def test_sign_flip_of_nothing_is_one() -> None:
    assert stats.sign_flip([]) == stats.sign_flip([0.0, 0.0]) == 1.0


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert stats.holm([]) == []


def test_difference_of_rates_is_newcombes_interval() -> None:
    a, b = stats.proportion(56, 70), stats.proportion(48, 80)
    assert a is not None and b is not None
    # Newcombe (1998), table II, example (a), method 10
    assert stats.difference_of_rates(a, b) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_spread_needs_two_seeds() -> None:
    assert stats.spread([0.4]) is None
    over = stats.spread([0.4, 0.5, 0.6])
    assert over is not None and (over.mean, over.low, over.high, over.seeds) == (pytest.approx(0.5), 0.4, 0.6, 3)
    assert over.sd == pytest.approx(0.1)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="must be"):
        stats.Rates(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="not"):
        stats.Pairing(np.zeros((2, 3)), np.zeros((2, 4)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="weights"):
        stats.Rates(np.zeros((2, 3)), np.ones((2, 3))).mean([1.0])


def test_the_rate_of_one_target_is_the_mean_in_which_it_alone_has_weight() -> None:
    rng = np.random.default_rng(3)
    wrong, counted = rng.random((6, 40)) < 0.4, rng.random((6, 40)) < 0.8
    counted[0], wrong[1], wrong[2] = False, True, False
    rates = stats.Rates(wrong, counted)
    assert [rates.single(t) for t in range(6)] == [rates.mean(np.eye(6)[t]) for t in range(6)]
    assert rates.single(0) is None
