"""Work whose bits do not depend on the number of threads: each piece on one thread, several pieces at once.

A sum or a matrix product that several threads share is cut as their number has it, and rounds accordingly. Here the
caller cuts the work, always in the same places; how many threads the process may use (OMP_NUM_THREADS, else its cores)
only says how many pieces are under way. They share no cores, and wait for one another once, not in every operation.

torch's number of threads belongs to the thread that sets it; what a thread starts with is the last one set anywhere.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

TILE = 512  # rows and columns of a product that are one piece

_mine = threading.local()  # width: how many pieces this thread may have under way, where it computes with one thread
_under_way: set[Future[Any]] = set()


@contextmanager
def one_thread() -> Iterator[None]:
    """What the calling thread computes in it, torch and its LAPACK compute with one thread; pieces still have all."""
    import torch

    if hasattr(_mine, "width"):
        yield
        return
    _mine.width = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_mine.width)
        del _mine.width


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's and SciPy's own BLAS and LAPACK, which torch's setting does not reach, work with one thread."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def width() -> int:
    """How many pieces are under way at once; 1 in a piece."""
    import torch

    return getattr(_mine, "width", None) or torch.get_num_threads()


def start(function: Callable[[], Result]) -> Future[Result]:
    """One piece, with gradients off. It waits where as many again as there are threads wait already; where there is
    one thread alone, the piece is done when this returns.
    """
    if width() == 1:
        done: Future[Result] = Future()
        try:
            with one_thread():
                done.set_result(_without_gradients(function))
        except Exception as error:
            done.set_exception(error)
        return done
    pool, room = _pool(os.getpid(), width())
    room.acquire()
    piece = pool.submit(_without_gradients, function)
    _under_way.add(piece)
    piece.add_done_callback(_under_way.discard)
    piece.add_done_callback(lambda _: room.release())
    return piece


def settle(*, cancel: bool = False) -> None:
    """Waits until no piece is under way; `cancel`: those that nobody computes yet never are."""
    for piece in list(_under_way) if cancel else ():
        piece.cancel()
    wait(list(_under_way))


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The function of each item, in order; no more of them are done ahead than there are threads."""
    most, waiting = width(), deque[Future[Result]]()
    try:
        for item in items:
            waiting.append(start(functools.partial(function, item)))
            if len(waiting) > most or most == 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """`a @ b` of matrices [N,K] and [K,M]; on a CPU by tiles."""
    import torch

    if a.device.type != "cpu":
        return torch.mm(a, b, out=out)
    total = a.new_empty(len(a), b.shape[1]) if out is None else out

    def tile(at: tuple[slice, slice]) -> None:
        total[at] = a[at[0]] @ b[:, at[1]]

    for _ in in_parallel(tile, [(rows, columns) for rows in _sides(len(a)) for columns in _sides(b.shape[1])]):
        pass
    return total


def gram(x: Tensor) -> Tensor:
    """`x' @ x` of [N,D], [D,D]; on a CPU by tiles, those on and above the diagonal."""
    if x.device.type != "cpu":
        return x.T @ x
    total, sides = x.new_empty(x.shape[1], x.shape[1]), _sides(x.shape[1])

    def tile(at: tuple[slice, slice]) -> None:
        total[at] = x[:, at[0]].T @ x[:, at[1]]
        if at[0] != at[1]:
            total[at[1], at[0]] = total[at].T

    for _ in in_parallel(tile, [(i, j) for i in sides for j in sides if j.start >= i.start]):
        pass
    return total


def _sides(size: int) -> list[slice]:
    return [slice(start, min(start + TILE, size)) for start in range(0, size, TILE)]


def _without_gradients(function: Callable[[], Result]) -> Result:
    import torch

    with torch.no_grad():  # a mode is a thread's own
        return function()


@functools.cache
def _pool(process: int, threads: int) -> tuple[ThreadPoolExecutor, threading.Semaphore]:
    """The threads, and room for pieces that run or wait.

    They are kept, since MKL keeps memory for each thread that ever called it; `process`: a fork has none of them.
    """
    import torch

    before, ready = torch.get_num_threads(), threading.Barrier(threads + 1)

    def begin() -> None:
        _mine.width = 1
        torch.get_num_threads()  # else it takes the last number set anywhere when it first computes
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="evalkit-compute", initializer=begin)
    for _ in range(threads):
        pool.submit(lambda: None)  # each starts a thread, while those before are held up
    ready.wait()
    torch.set_num_threads(before)  # what threads of others start with
    return pool, threading.Semaphore(2 * threads)
