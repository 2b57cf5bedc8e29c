"""Documents shared out to ranks."""

from hypothesis import given, settings
from hypothesis import strategies as st

from utils.distributed import share_out


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 6))
def test_each_item_has_one_rank_and_the_shares_are_of_like_size(sizes, world):
    shares = [share_out(sizes, rank, world) for rank in range(world)]
    assert sorted(item for share in shares for item in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in shares)
    loads = [sum(sizes[item] + 1 for item in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes, default=0) + 1


def test_one_rank_has_all():
    assert share_out([3, 1, 2], 0, 1) == [0, 1, 2]
