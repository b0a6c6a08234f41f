"""Answers to the exercises of 06b_tensor_cores."""

from __future__ import annotations

import math

import numpy as np
from numba import cuda, float32

from cks_numba.tutorial.small_kernels import multiply

from . import right, wrong

# --- 06b.1: how many FFMA one mma replaces ---
right(
    "06b.1",
    lambda m, n, k: m * n * k / 32,
    lambda m, n, k: m * k * n // 32,
    lambda rows, columns, terms: np.prod([rows, columns, terms]) * 2 / 64,
)
wrong("06b.1", ("For m=16, n=8, k=8 it should be 32, and yours is 1024", "does 32 of them"), lambda m, n, k: m * n * k)
wrong("06b.1", "That is twice as many", lambda m, n, k: 2 * m * n * k / 32, lambda m, n, k: m * n * k // 16)
wrong("06b.1", "the number of results", lambda m, n, k: m * n)
wrong("06b.1", "one for each result and lane", lambda m, n, k: m * n / 32)
wrong("06b.1", "multiplied, not added", lambda m, n, k: (m + n + k) / 32)
wrong("06b.1", "A warp has 32 threads", lambda m, n, k: m * n * k / 64)
wrong("06b.1", "elements of A and B", lambda m, n, k: (m * k + k * n) / 32)
wrong("06b.1", "one instruction of one warp", lambda m, n, k: m * n * k / 128)
wrong("06b.1", "it should be 64, and yours is 32", lambda m, n, k: 32)
wrong("06b.1", "For m=8, n=8, k=16 it should be 32, and yours is 64", lambda m, n, k: 16 * n * k / 32)
wrong("06b.1", "For m=8, n=8, k=16 it should be 32, and yours is 16", lambda m, n, k: m * m * k / 64)
wrong("06b.1", "For m=16, n=16, k=8 it should be 64, and yours is 32", lambda m, n, k: 8 * m * k / 32)
wrong("06b.1", "should be a function", 32)
wrong("06b.1", "returns None", lambda m, n, k: None)
wrong("06b.1", "raised", lambda m: m)


# --- 06b.2: who holds an element of D ---
right("06b.2", lambda row, column: (row % 8 * 4 + column // 2, row // 8 * 2 + column % 2))


@right("06b.2")
def with_tests(row, column):
    register = column & 1
    if row >= 8:
        row, register = row - 8, register + 2
    return [row * 4 + (column >> 1), register]


@right("06b.2")
def by_search(row, column):
    for thread in range(32):
        g, t = divmod(thread, 4)
        places = [(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1)]
        if (row, column) in places:
            return np.int64(thread), places.index((row, column))
    return None


wrong("06b.2", "Rows and columns are exchanged", lambda r, c: (c % 8 * 4 + r % 8 // 2, r % 2))
wrong("06b.2", ("row=0, column=1", "every fourth column"), lambda r, c: (r % 8 * 4 + c % 4, r // 8 * 2 + c // 4))
wrong("06b.2", "first two numbers are of the upper half", lambda r, c: (r % 8 * 4 + c // 2, r // 8 + c % 2 * 2))
wrong("06b.2", "Which of its four numbers", lambda r, c: (r % 8 * 4 + c // 2, 0))
wrong("06b.2", ("row=8, column=0", "same threads as rows 0 to 7"), lambda r, c: (r * 4 + c // 2, c % 2))
wrong("06b.2", "two rows, 8 apart", lambda r, c: (r % 8 * 4 + c // 2, c % 2))
wrong("06b.2", "four threads share one", lambda r, c: (c // 2 * 8 + r % 8, r // 8 * 2 + c % 2))
wrong("06b.2", "eight threads for each row", lambda r, c: (r % 4 * 8 + c, r // 4))
wrong("06b.2", "it should be (0, 1), and yours is (0, 0)", lambda r, c: (0, 0))
wrong("06b.2", "divide with //", lambda r, c: (r % 8 * 4 + c / 2, r // 8 * 2 + c % 2))
wrong("06b.2", "two whole numbers", lambda r, c: r % 8 * 4 + c // 2, lambda r, c: "0, 1")
wrong("06b.2", "should be a function", (0, 1))
wrong("06b.2", "returns None", lambda r, c: None)


# --- 06b.3: the fewest stages ---
right(
    "06b.3",
    lambda latency, compute: 1 + math.ceil(latency / compute),
    lambda latency, compute: (latency + compute - 1) // compute + 1,
)


@right("06b.3")
def one_more_until_it_fits(latency, compute):
    stages = 2
    while (stages - 1) * compute < latency:
        stages += 1
    return stages


wrong("06b.3", ("For latency=6, compute=3", "takes a buffer, too"), lambda la, mu: math.ceil(la / mu))
wrong("06b.3", ("For latency=7, compute=3", "Round up"), lambda la, mu: 1 + la // mu)
wrong("06b.3", "Turn the fraction over", lambda la, mu: 1 + math.ceil(mu / la))
wrong("06b.3", "just in time is no wait", lambda la, mu: 2 + math.ceil(la / mu))
wrong("06b.3", "depends on both times", lambda la, mu: 2)
wrong("06b.3", "Buffers are whole", lambda la, mu: 1 + la / mu)
wrong("06b.3", "not subtracted", lambda la, mu: 1 + max(la - mu, 1))
wrong("06b.3", "rounding up is -(-a // b)", lambda la, mu: la // mu + 2)
wrong("06b.3", "it should be 4, and yours is 3", lambda la, mu: 3)
wrong("06b.3", "does not end", lambda la, mu: next(k for k in iter(int, 1) if k))
wrong("06b.3", "should be a function", 3)


# --- 06b.4: the kernel ---
@right("06b.4")
@cuda.jit
def eight_at_once(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    zero = float32(0)
    d = (zero, zero, zero, zero)
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, g], b[k + t + 4, g], d)
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[2], d[3]


@right("06b.4")
@cuda.jit
def in_another_order_of_terms(a, b, c):
    """Neighbouring terms go to one thread: A and B agree, and that is enough."""
    lane = cuda.grid(1)
    row, pair = lane >> 2, lane & 3
    d = (float32(0), float32(0), float32(0), float32(0))
    k = 2 * pair
    while k < b.shape[0]:
        d = multiply(a[row, k], a[row + 8, k], a[row, k + 1], a[row + 8, k + 1], b[k, row], b[k + 1, row], d)
        k += 8
    for r in range(4):
        c[row + r // 2 * 8, 2 * pair + r % 2] = d[r]


@right("06b.4")
@cuda.jit
def backwards(a, b, c):
    lane = cuda.threadIdx.x
    g = lane // 4
    t = lane - 4 * g
    s0 = s1 = s2 = s3 = c.dtype.type(0)
    for chunk in range(a.shape[1] // 8 - 1, -1, -1):
        left, right_ = 8 * chunk + t, 8 * chunk + t + 4
        s0, s1, s2, s3 = multiply(
            a[g, left], a[g + 8, left], a[g, right_], a[g + 8, right_], b[left, g], b[right_, g], (s0, s1, s2, s3)
        )
    c[g, 2 * t] = s0
    c[g, 2 * t + 1] = s1
    c[g + 8, 2 * t] = s2
    c[g + 8, 2 * t + 1] = s3


@wrong("06b.4", "first eight terms")
@cuda.jit
def no_loop(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    d = multiply(a[g, t], a[g + 8, t], a[g, t + 4], a[g + 8, t + 4], b[t, g], b[t + 4, g], d)
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "last eight terms")
@cuda.jit
def forgets_its_sums(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    zero = float32(0)
    d = (zero, zero, zero, zero)
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, g], b[k + t + 4, g], (zero, zero, zero, zero))
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", ("a of 16 x 8", "do not agree on the order"))
@cuda.jit
def b_the_other_way(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t + 4, g], b[k + t, g], d)
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "a1 and a2 are exchanged")
@cuda.jit
def a_along_the_row_first(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g, k + t + 4], a[g + 8, k + t], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, g], b[k + t + 4, g], d)
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "columns 2*t and 2*t + 1")
@cuda.jit
def columns_four_apart(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, g], b[k + t + 4, g], d)
    c[g, t], c[g, t + 4] = d[0], d[1]
    c[g + 8, t], c[g + 8, t + 4] = d[2], d[3]


@wrong("06b.4", "Rows and columns of b are exchanged")
@cuda.jit
def b_transposed(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + g, t], b[k + g, t + 4], d)
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "d1 and d2 are exchanged")
@cuda.jit
def sums_down_first(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, g], b[k + t + 4, g], d)
    c[g, 2 * t], c[g + 8, 2 * t] = d[0], d[1]
    c[g, 2 * t + 1], c[g + 8, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "halves of c are exchanged")
@cuda.jit
def lower_half_first(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, g], b[k + t + 4, g], d)
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[0], d[1]
    c[g, 2 * t], c[g, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "those of b's column 0")
@cuda.jit
def one_column_of_b(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, 0], b[k + t + 4, 0], d)
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "no tensor core has made them")
@cuda.jit
def thread_by_thread(a, b, c):
    for k in range(4):
        at = 4 * cuda.threadIdx.x + k
        acc = c.dtype.type(0)
        for term in range(a.shape[1]):
            acc += a[at // 8, term] * b[term, at % 8]
        c[at // 8, at % 8] = acc


@wrong("06b.4", ("out of bounds", "one warp"))
@cuda.jit
def rows_too_far(a, b, c):
    g, t = cuda.threadIdx.x // 2, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, g], b[k + t + 4, g], d)
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "64 of 128 results were never written")
@cuda.jit
def upper_half_only(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, g], b[k + t + 4, g], d)
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]


wrong("06b.4", "keep the line @cuda.jit", lambda a, b, c: None)


@wrong("06b.4", "the terms of a round begin at k")
@cuda.jit
def the_first_terms_again(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    zero = float32(0)
    d = (zero, zero, zero, zero)
    for _ in range(0, a.shape[1], 8):
        d = multiply(a[g, t], a[g + 8, t], a[g, t + 4], a[g + 8, t + 4], b[t, g], b[t + 4, g], d)
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "Rows g and g + 8 belong to a thread")
@cuda.jit
def writes_neighbouring_rows(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    zero = float32(0)
    d = (zero, zero, zero, zero)
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, g], b[k + t + 4, g], d)
    c[2 * g, 2 * t], c[2 * g, 2 * t + 1] = d[0], d[1]
    c[2 * g + 1, 2 * t], c[2 * g + 1, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "keep the sums in d")
@cuda.jit
def adds_to_c(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    zero = float32(0)
    for k in range(0, a.shape[1], 8):
        a0, a1, a2, a3 = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        d = multiply(a0, a1, a2, a3, b[k + t, g], b[k + t + 4, g], (zero, zero, zero, zero))
        c[g, 2 * t] += d[0]
        c[g, 2 * t + 1] += d[1]
        c[g + 8, 2 * t] += d[2]
        c[g + 8, 2 * t + 1] += d[3]


@wrong("06b.4", "calls multiply() 6 times for 24 terms, and 3 are enough")
@cuda.jit
def four_terms_at_once(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    for k in range(0, a.shape[1], 4):
        d = multiply(a[g, k + t], a[g + 8, k + t], float32(0), float32(0), b[k + t, g], float32(0), d)
    c[g, 2 * t], c[g, 2 * t + 1], c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d


@wrong("06b.4", ("some threads of the warp are missing", "all 32 threads"))
@cuda.jit
def half_a_warp(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = (float32(0), float32(0), float32(0), float32(0))
    if cuda.threadIdx.x < 16:
        for k in range(0, a.shape[1], 8):
            d = multiply(
                a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4], b[k + t, g], b[k + t + 4, g], d
            )
        c[g, 2 * t], c[g, 2 * t + 1], c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d


@wrong("06b.4", "no Python lists")
@cuda.jit
def sums_in_a_list(a, b, c):
    g, t = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4
    d = [float32(0)] * 4
    for k in range(0, a.shape[1], 8):
        d = multiply(
            a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4], b[k + t, g], b[k + t + 4, g], d
        )
    for r in range(4):
        c[g + 8 * (r // 2), 2 * t + r % 2] = d[r]


@wrong("06b.4", "b is read in its first eight rows in every round")
@cuda.jit
def first_rows_of_b_again(a, b, c):
    lane = cuda.threadIdx.x
    g, t = lane // 4, lane % 4
    z = float32(0)
    d = (z, z, z, z)
    for k in range(0, a.shape[1], 8):
        d = multiply(a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4], b[t, g], b[t + 4, g], d)
    c[g, 2 * t] = d[0]
    c[g, 2 * t + 1] = d[1]
    c[g + 8, 2 * t] = d[2]
    c[g + 8, 2 * t + 1] = d[3]


@wrong("06b.4", "The sums are still 0")
@cuda.jit
def sums_not_taken_back(a, b, c):
    lane = cuda.threadIdx.x
    g, t = lane // 4, lane % 4
    z = float32(0)
    d = (z, z, z, z)
    for k in range(0, a.shape[1], 8):
        multiply(a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4], b[k + t, g], b[k + t + 4, g], d)
    c[g, 2 * t] = d[0]
    c[g, 2 * t + 1] = d[1]
    c[g + 8, 2 * t] = d[2]
    c[g + 8, 2 * t + 1] = d[3]


@right("06b.4")
@cuda.jit
def number_in_the_warp(a, b, c):
    lane = cuda.laneid
    g = lane >> 2
    t = lane & 3
    d = (float32(0), float32(0), float32(0), float32(0))
    k = t
    while k < a.shape[1]:
        d = multiply(a[g, k], a[g + 8, k], a[g, k + 4], a[g + 8, k + 4], b[k, g], b[k + 4, g], d)
        k += 8
    c[g, 2 * t], c[g, 2 * t + 1] = d[0], d[1]
    c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = d[2], d[3]


@wrong("06b.4", "each round takes eight of the a.shape[1] terms")
@cuda.jit
def a_round_for_each_term(a, b, c):
    lane = cuda.threadIdx.x
    g, t = lane // 4, lane % 4
    z = float32(0)
    d = (z, z, z, z)
    for k in range(a.shape[1]):
        d = multiply(
            a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4], b[k + t, g], b[k + t + 4, g], d
        )
    c[g, 2 * t] = d[0]
    c[g, 2 * t + 1] = d[1]
    c[g + 8, 2 * t] = d[2]
    c[g + 8, 2 * t + 1] = d[3]
