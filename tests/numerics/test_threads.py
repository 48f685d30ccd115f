"""Pieces of one thread each: their order, what a thread is left with, and bits that no number of threads changes."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from evalkit.metric import Rows
from evalkit.metrics.kernel_distance import KernelDistance
from evalkit.metrics.precision_recall import Recall
from evalkit.metrics.vendi import Vendi
from evalkit.numerics import threads
from evalkit.numerics.gaussians import Seen, root_trace, scatter_of
from evalkit.numerics.neighbours import nearest_in
from evalkit.numerics.threads import gram, in_parallel, one_thread, product, settle, start


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [1, 3])
def test_in_order_and_each_on_one_thread(number: int) -> None:
    torch.set_num_threads(number)

    def work(i: int) -> tuple[int, int, bool, str]:
        time.sleep(0.02 * (i % 3 == 0))
        return i, torch.get_num_threads(), torch.is_grad_enabled(), threading.current_thread().name

    done = list(in_parallel(work, range(9)))
    assert [each[:3] for each in done] == [(i, 1, False) for i in range(9)]
    assert (len({each[3] for each in done}) > 1) == (number > 1)
    assert torch.get_num_threads() == number


def test_as_many_at_once_as_there_are_threads() -> None:
    """Also within `one_thread`; a piece's own pieces are made where it is."""
    torch.set_num_threads(3)
    met = threading.Barrier(3)

    def work(_: int) -> tuple[int, list[str]]:
        met.wait(timeout=20)  # three are under way, or this fails
        return threads.width(), list(in_parallel(lambda _: threading.current_thread().name, range(2)))

    with one_thread():
        assert torch.get_num_threads() == 1
        done = list(in_parallel(work, range(6)))
        with one_thread():
            assert threads.width() == 3
    assert {each[0] for each in done} == {1}
    assert all(len(set(each[1])) == 1 and each[1][0].startswith("evalkit-compute") for each in done)
    assert torch.get_num_threads() == 3


def test_a_thread_that_is_new_has_the_callers_number() -> None:
    torch.set_num_threads(3)
    list(in_parallel(abs, range(3)))
    found = []
    late = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert found == [3]


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_comes_from_its_piece_and_ends_the_rest(number: int) -> None:
    torch.set_num_threads(number)
    begun = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 1:
            raise ValueError("piece 1")
        return i

    with pytest.raises(ValueError, match="piece 1"):
        list(in_parallel(work, range(100)))
    settle()
    assert len(begun) < 10
    assert torch.get_num_threads() == number
    with pytest.raises(ValueError, match="piece 1"):
        start(lambda: work(1)).result()


def test_settle_waits_for_what_was_started() -> None:
    torch.set_num_threads(2)
    done = []
    for i in range(4):
        start(lambda i=i: (time.sleep(0.05), done.append(i)))  # type: ignore[misc]
    settle()
    assert sorted(done) == [0, 1, 2, 3]
    pieces = [start(lambda: time.sleep(0.3)) for _ in range(4)]
    settle(cancel=True)
    assert all(piece.done() for piece in pieces)
    assert pieces[-1].cancelled()


def features(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 520, generator=torch.Generator().manual_seed(seed)).abs_()  # more than a tile wide


def moments() -> list[torch.Tensor]:
    state = scatter_of(features(300, 0))
    return [state["mean"], state["scatter"]]


def roots() -> list[torch.Tensor]:
    a, b = (torch.cov(features(700, seed).double().T) for seed in (1, 2))
    trace = [root_trace(a.clone(), b.clone(), rank, 699) for rank in (699, 90)]
    seen = Seen.of(a, b, 699)
    return [*trace, seen.values, *seen.without(features(40, 3).double(), 1e-3)]


def scores() -> list[torch.Tensor]:
    x, y = features(1300, 4), features(1200, 5)
    sides = {"generated": Rows(torch.arange(1300), {"x": x}), "reference": Rows(torch.arange(1200), {"x": y})}
    found = [
        Recall("x").score(**sides),
        KernelDistance("x", subsets=3, subset_size=300).score(**sides),
        Vendi("x").score(generated=sides["generated"]),
    ]
    return [torch.tensor([score.value, score.stderr], dtype=torch.float64) for score in found] + [*nearest_in(x, y, 3)]


@pytest.mark.parametrize("values", [moments, roots, scores])
def test_bits_do_not_depend_on_the_number_of_threads(values: Callable[[], list[torch.Tensor]]) -> None:
    made = []
    for number in (1, 2):
        torch.set_num_threads(number)
        with one_thread():
            made.append(values())
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_products_by_tiles_are_products() -> None:
    x, y = features(600, 6).double(), features(520, 7).double()
    torch.testing.assert_close(product(x, y.T), x @ y.T)
    torch.testing.assert_close(gram(x), x.T @ x)
    assert torch.equal(gram(x), gram(x).T)
    into = torch.empty(600, 520, dtype=torch.float64)
    assert product(x, y.T, out=into) is into
    torch.testing.assert_close(into, x @ y.T)
