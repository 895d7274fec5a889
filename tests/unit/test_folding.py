"""The folding rule covers every row length once, with the fewest vectors a thread and no idle warp."""

from __future__ import annotations

import pytest

from eet_demo.engine.executors.cuda.launchers.folding import fold_row
from eet_demo.errors import UnsupportedError


@pytest.mark.parametrize(
    ("n", "itemsize", "threads", "fold"),
    [
        (576, 2, 96, 1), (576, 4, 160, 1), (768, 2, 96, 1), (768, 4, 192, 1), (1600, 2, 224, 1), (1600, 4, 416, 1),
        (2560, 2, 320, 1), (2560, 4, 320, 2), (4096, 2, 512, 1), (4096, 4, 512, 2), (12288, 2, 512, 3),
        (12288, 4, 512, 6), (16384, 2, 512, 4), (16384, 4, 512, 8), (8, 2, 32, 1), (65536, 4, 512, 32),
    ],
)  # fmt: skip
def test_fold_at_the_sizes_of_models(n: int, itemsize: int, threads: int, fold: int) -> None:
    folding = fold_row(n, itemsize)
    assert (folding.vec, folding.threads, folding.fold) == (16 // itemsize, threads, fold)


@pytest.mark.parametrize("itemsize", [1, 2, 4])
def test_fold_covers_every_length_with_the_least_work(itemsize: int) -> None:
    for n in range(8, 20000, 8):
        folding = fold_row(n, itemsize)
        assert folding.vec * itemsize == 16
        assert folding.threads % 32 == 0
        assert 32 <= folding.threads <= 512
        covered = folding.threads * folding.fold * folding.vec
        assert covered >= n
        assert (folding.fold - 1) * 512 * folding.vec < n, f"n={n}: fold {folding.fold} where one less would do"
        idle = covered - n
        assert idle < folding.fold * folding.vec * 32, f"n={n}: a whole warp has nothing to do"


@pytest.mark.parametrize("n", [0, 4, 111, 577, 65544])
def test_fold_refuses_with_the_reason(n: int) -> None:
    with pytest.raises(UnsupportedError, match=f"a row of {n} values is not supported.*multiple of 8"):
        fold_row(n, 2)
