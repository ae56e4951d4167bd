"""Splits: shares are met as closely as labels and groups allow."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.splits import carve, carve_groups


@given(
    labels=st.lists(st.sampled_from("abcde"), min_size=1, max_size=80),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 5),
)
def test_split_is_stratified_and_leaves_one_of_each_label(
    labels: list[str], share: float, seed: int
) -> None:
    names = [f"n{i}" for i in range(len(labels))]
    carved = carve(names, labels, share, seed, "test")
    sizes, taken = (
        Counter(labels),
        Counter(label for name, label in zip(names, labels, strict=True) if name in carved),
    )
    assert all(taken[label] < num for label, num in sizes.items())
    assert len(carved) <= share * len(labels) + 0.51
    if min(sizes.values()) > 1 / (1 - share):
        assert all(abs(taken[label] - share * num) <= 1.01 for label, num in sizes.items())
        assert abs(len(carved) - share * len(labels)) <= 0.51


@given(
    groups=st.lists(st.integers(0, 12).map(str), min_size=1, max_size=80),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_no_other_group_would_bring_the_share_closer(
    groups: list[str], share: float, seed: int
) -> None:
    carved = carve_groups(groups, share, seed, "test")
    sizes = Counter(groups)
    missing = share * len(groups) - sum(sizes[group] for group in carved)
    assert carved <= sizes.keys()
    assert all(
        abs(missing - num) >= abs(missing) for group, num in sizes.items() if group not in carved
    )
