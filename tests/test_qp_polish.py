"""The book-keeping of the active-set polish."""

from __future__ import annotations

import itertools

from implicit_layers.qp.interior_point import row_codes


def test_no_two_active_sets_of_ten_rows_share_a_fingerprint():
    # A linear code once made two thirds of them collide: the right set then counted as tried, and was skipped.
    sums = {sum(subset) for size in range(11) for subset in itertools.combinations(row_codes(10), size)}
    assert len(sums) == 2**10


def test_fingerprints_of_the_largest_problems_are_exact_in_double():
    assert max(row_codes(1000)) < 2**36
