import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scores.difficulty import ability, difficulty


@pytest.mark.parametrize("num_classes", [2, 3, 10, 400])
def test_ability_is_zero_for_uniform_and_largest_for_certain_predictions(num_classes: int) -> None:
    bits = ability(np.stack([np.full(num_classes, 1 / num_classes), np.eye(num_classes)[0]]))
    assert bits.dtype == np.float32
    np.testing.assert_allclose(bits, [0, np.log2(num_classes)], atol=2e-5)
    np.testing.assert_allclose(difficulty(bits, num_classes), [1, 0], atol=2e-5)


def test_a_known_distribution() -> None:
    np.testing.assert_allclose(ability(np.array([[0.5, 0.25, 0.25]])), np.log2(3) - 1.5, rtol=1e-6)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20).filter(lambda values: sum(values) > 1e-3))
def test_difficulty_is_normalised_entropy(values: list[float]) -> None:
    p = np.array([values]) / sum(values)
    clipped = np.clip(p, 1e-9, 1)
    entropy = -(clipped * np.log2(clipped)).sum() / np.log2(len(values))
    hard = difficulty(ability(p), len(values))
    assert 0 <= hard[0] <= 1
    np.testing.assert_allclose(hard, entropy, atol=1e-5)


def test_difficulty_of_a_missing_modality_is_nan() -> None:
    assert np.isnan(difficulty(np.array([np.nan], np.float32), 4)).all()
