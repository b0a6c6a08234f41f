"""Types, arithmetic, layouts of arrays, arguments and control flow."""

import math

import numpy as np
from foreign.cases import blank, case, numbers, zeros
from numba import cuda, float32, int64, uint64
from numba.cuda.random import xoroshiro128p_dtype, xoroshiro128p_uniform_float32


@case(1, 21, lambda: (blank(4, 21, dtype="i8"), numbers(21, dtype="i8"), numbers(21, dtype="i4", seed=1)),
      lambda out, a, b: quotients(a, b))  # fmt: skip
@cuda.jit
def divisions(out, a, b):
    """Round towards minus infinity, as Python does, and not towards zero, as the hardware does."""
    i = cuda.threadIdx.x
    divisor = b[i]
    if divisor == 0:
        divisor = 1
    out[0, i] = a[i] // divisor
    out[1, i] = a[i] % divisor
    out[2, i] = int64(math.floor(a[i] / divisor))
    out[3, i] = a[i] >> 2  # wrong a: out[4, i] = a[i] >> 2  # a: out of bounds  # a: never written


def quotients(a, b):
    """Divide by NumPy, by one where the divisor is zero."""
    b = np.where(b == 0, 1, b).astype(np.int64)
    return [a // b, a % b, np.floor(a / b), a >> 2]


def scrambled(x):
    """Compute splitmix64 by whole numbers without end."""
    mask, results = 2**64 - 1, []
    for value in x.tolist():
        z = (value + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        results.append(z ^ (z >> 31))
    return np.array(results, np.uint64)


@case(2, 20, lambda: (zeros(37, dtype="u8"), numbers(37, dtype="u8")), lambda out, x: scrambled(x))
@cuda.jit
def splitmix(out, x):
    """Multiply and shift 64-bit numbers without a sign."""
    i = cuda.grid(1)
    if i >= out.size:  # wrong a: if i > out.size:
        return
    z = x[i] + uint64(0x9E3779B97F4A7C15)  # a: out of bounds
    z = (z ^ (z >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> uint64(27))) * uint64(0x94D049BB133111EB)
    out[i] = z ^ (z >> uint64(31))  # a: out of bounds


def values_of_functions(x, y):
    """Compute by NumPy what `math_functions` does."""
    return [np.sin(x), np.cos(y), np.exp(-x), np.log(x), np.sqrt(x), x**y, np.arctan2(y, x), np.tanh(y),
            np.floor(y), np.hypot(x, y), np.fmod(x, 0.7), np.log1p(x), np.abs(y), np.copysign(x, y),
            np.vectorize(math.erf)(y), np.vectorize(math.gamma)(x)]  # fmt: skip


@case(2, 16, lambda: (blank(16, 30), np.linspace(0.1, 4, 30, dtype="f4"), np.linspace(-2, 3, 30, dtype="f4")),
      lambda out, x, y: values_of_functions(x, y))  # fmt: skip
@cuda.jit
def math_functions(out, x, y):
    """Call functions of `math` in float32."""
    i = cuda.grid(1)
    if i >= x.size:
        return
    p, q = x[i], y[i]
    out[0, i], out[1, i], out[2, i], out[3, i] = math.sin(p), math.cos(q), math.exp(-p), math.log(p)
    out[4, i], out[5, i], out[6, i], out[7, i] = math.sqrt(p), p**q, math.atan2(q, p), math.tanh(q)
    out[8, i], out[9, i], out[10, i], out[11, i] = (
        math.floor(q),
        math.hypot(p, q),
        math.fmod(p, float32(0.7)),
        math.log1p(p),
    )
    out[12, i], out[13, i], out[14, i], out[15, i] = abs(q), math.copysign(p, q), math.erf(q), math.gamma(p)


@case(1, 32, lambda: (blank(20, dtype="f2"), numbers(20, dtype="f2"), numbers(20, dtype="f2", seed=1)),
      lambda out, x, y: x * y + x)  # fmt: skip
@cuda.jit
def half_precision(out, x, y):
    """Compute in float16."""
    i = cuda.grid(1)
    if i < x.size:  # wrong a: if i < x.size + 2:
        out[i] = x[i] * y[i] + x[i]  # a: out of bounds


@case(2, 32, lambda: (zeros(64, dtype="i1"), zeros(64, dtype="u1"), zeros(64, dtype="?"), numbers(64, dtype="i2")),
      lambda a, b, c, x: (x.astype(np.int8), x * 40 % 256, x > 0))  # fmt: skip
@cuda.jit
def bytes_of_neighbours(a, b, c, x):
    """Write bytes side by side: threads that share a word do not share a byte."""
    i = cuda.grid(1)
    a[i] = x[i]  # wrong a: a[i // 2] = i  # a: race
    b[i] = x[i] * 40
    c[i] = x[i] > 0  # wrong b: c[i + 1] = x[i] > 0  # b: out of bounds


@case(1, 9, lambda: (np.full(9, np.nan, "c8"), numbers(9) + 1j * numbers(9, seed=1)), lambda out, z: z * z + 1j)
@cuda.jit
def squares_of_complex(out, z):
    """Compute with complex numbers."""
    i = cuda.threadIdx.x
    out[i] = z[i] * z[i] + 1j  # wrong a: out[i] = z[i] * z[i - 1]  # a: negative index


def seeds(n):
    """Make states for generators."""
    words = np.random.default_rng(5).integers(1, 2**63, (n, 2)).astype(np.uint64)
    return np.array([tuple(row) for row in words.tolist()], xoroshiro128p_dtype)


def uniform(states, count):
    """Compute the generator by whole numbers without end."""
    mask, rows = 2**64 - 1, []
    for s0, s1 in states.tolist():
        row = []
        for _ in range(count):
            row.append(((s0 + s1) & mask) >> 11)
            s1 ^= s0
            s0 = ((s0 << 55 | s0 >> 9) ^ s1 ^ (s1 << 14)) & mask
            s1 = (s1 << 36 | s1 >> 28) & mask
        rows.append(row)
    return np.array(rows) / 2.0**53


@case(2, 32, lambda: (blank(40, 3), seeds(40)), lambda out, states: uniform(states, 3))
@cuda.jit
def random_numbers(out, states):
    """Draw from a generator for each thread."""
    i = cuda.grid(1)
    if i < states.size:  # wrong a: if i <= states.size:
        for k in range(out.shape[1]):
            out[i, k] = xoroshiro128p_uniform_float32(states, i)  # a: out of bounds


@cuda.jit(device=True)
def neighbour(x, i):
    return x[i + 1]  # a: out of bounds


@cuda.jit(device=True, inline="always")
def twice(value):
    return 2 * value


@cuda.jit(device=True)
def steps_to_one(n):
    """Count Collatz steps; a loop of unknown length, too large to be inlined everywhere."""
    steps = 0
    while n != 1:  # b: endless loop
        if n % 2 == 0:  # b: endless loop
            n //= 2  # b: endless loop
        else:
            n = 3 * n + 1  # wrong b: n = 3 * n  # b: endless loop
        steps += 1  # b: endless loop
    return steps


def collatz(n):
    """Count the steps until one."""
    return 0 if n == 1 else 1 + collatz(n // 2 if n % 2 == 0 else 3 * n + 1)


@case(1, 32, lambda: (blank(25, dtype="i8"), numbers(26, dtype="i8")),
      lambda out, x: 2 * x[1:] + [collatz(i + 1) for i in range(25)])  # fmt: skip
@cuda.jit
def device_functions(out, x):
    """Call functions, one of them inlined by Numba."""
    i = cuda.grid(1)
    if i < out.size:  # wrong a: if i < x.size:
        out[i] = twice(neighbour(x, i)) + steps_to_one(i + 1)  # a: out of bounds


@case(2, 16,
      lambda: (blank(4, 6), numbers(20, 9)[3:11:2, 6:0:-1], numbers(6, 4, seed=1).T, numbers(48, seed=2)[::-2]),
      lambda out, a, b, c: a + 2 * b + 3 * c.reshape(4, 6))  # fmt: skip
@cuda.jit
def layouts(out, a, b, c):
    """Read views with strides, columns first, and backwards."""
    i = cuda.grid(1)
    if i < out.size:  # wrong a: if i < 32:
        row, column = i // 6, i % 6
        out[row, column] = a[row, column] + 2 * b[row, column] + 3 * c[i]  # a: out of bounds


def scalars():
    """Make a scalar of every kind."""
    whole = (np.int8(-3), np.uint16(60000), np.int32(-7), np.int64(2**40), np.uint64(2**63))
    return *whole, np.float32(0.1), np.float64(0.1), True, np.complex64(1 + 2j)


@case(1, 8, lambda: (blank(8, dtype="f8"), (numbers(8), numbers(8, dtype="i4", seed=1)), (2, 0.5), *scalars()),
      lambda out, arrays, factors, *rest: arrays[0] * 2 + arrays[1] * 0.5 + sum(map(float, rest[:-1])) + 2)  # fmt: skip
@cuda.jit
def arguments(out, arrays, factors, b, h, i4, q, u, f, d, flag, z):
    """Take arrays in a tuple, and scalars of every width."""
    i = cuda.threadIdx.x
    total = arrays[0][i] * factors[0] + arrays[1][i] * factors[1]  # wrong a: total = arrays[1][i + 1] * factors[1]
    # a: out of bounds
    total += b + h + i4 + q + float(u) + f + d
    if flag:
        total += z.imag + 1
    out[i] = total


def escapes(height, width):
    """Count steps until a point leaves the circle of radius two, by NumPy."""
    y, x = np.mgrid[:height, :width]
    c = (x - 8) / 6 + 1j * (y - 5) / 5
    z, count = np.zeros_like(c), np.zeros(c.shape, int)
    for _ in range(30):
        inside = abs(z) <= 2
        count += inside
        z = np.where(inside, z * z + c, z)
    return count


@case((2, 3), (7, 3), lambda: (blank(10, 13, dtype="i4"),), lambda out: escapes(10, 13))
@cuda.jit
def mandelbrot(out):
    """Leave a loop at different times; the grid is smaller than the picture."""
    x0, y0 = cuda.grid(2)
    step_x, step_y = cuda.gridsize(2)
    for y in range(y0, out.shape[0], step_y):  # wrong a: for y in range(y0, 9, step_y):
        for x in range(x0, out.shape[1], step_x):
            cx, cy = (x - 8) / 6, (y - 5) / 5
            zx, zy, count = 0.0, 0.0, 0
            while count < 30:  # b: endless loop
                if zx * zx + zy * zy > 4:  # b: endless loop
                    break
                zx, zy = zx * zx - zy * zy + cx, 2 * zx * zy + cy  # b: endless loop
                count += 1  # wrong b: zx = zx * 1.0  # b: endless loop
            out[y, x] = count  # a: never written


def dense(starts, columns, values, x):
    """Multiply row by row."""
    return [values[a:b] @ x[columns[a:b]] for a, b in zip(starts[:-1], starts[1:], strict=True)]


@case(1, 8,
      lambda: (blank(5), np.array([0, 3, 3, 7, 8, 12]), np.arange(12, dtype="i4") * 5 % 9, numbers(12), numbers(9)),
      lambda out, *csr: dense(*csr))  # fmt: skip
@cuda.jit
def sparse_product(out, starts, columns, values, x):
    """Multiply a sparse matrix, whose rows lie one after another, by a vector."""
    row = cuda.grid(1)
    if row < out.size:  # wrong a: if row < starts.size:
        total = float32(0)
        for k in range(starts[row], starts[row + 1]):  # a: out of bounds  # wrong b: for k in range(13):
            total += values[k] * x[columns[k]]  # b: out of bounds
        out[row] = total  # a: out of bounds


@case(1, 3, lambda: (blank(3), numbers(3)), lambda out, x: x,
      printed=("thread 0 has 7.000000", "thread 1 has 3.000000", "thread 2 has 0.000000"))  # fmt: skip
@cuda.jit
def talk(out, x):
    """Print."""
    i = cuda.threadIdx.x
    print("thread", i, "has", x[i])
    out[i] = x[i]  # wrong a: out[i + 1] = x[i]  # a: out of bounds


@case(1, 16, lambda: (blank(16), numbers(16) ** 2), lambda out, x: np.sqrt(x))
@cuda.jit(debug=True, opt=False)
def roots(out, x):
    """Refuse negative numbers."""
    i = cuda.threadIdx.x
    assert x[i] >= 0, "negative"  # wrong a: assert x[i] > 0, "not positive"  # a: assertion
    if x[i] > 1000:  # wrong b: if x[i] >= 0:
        raise ValueError("too large")  # b: assertion
    out[i] = math.sqrt(x[i])
