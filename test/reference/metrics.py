"""Distances between sets of features: Frechet by scipy's sqrtm, CMMD by the formula (METHOD 8), in float64.

Sets are small, so that the covariance of most has not full rank: of those sqrtm has half the digits, and what is
stored is computed in 50 digits.
"""

import mpmath
import numpy as np
import scipy.linalg

import fixture

SIGMA, SCALE = 10.0, 1000.0


def frechet(a, b):
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), and the terms of which that is the difference."""
    A, B = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))  # with N - 1
    terms = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A) + np.trace(B)
    return terms - 2 * np.trace(scipy.linalg.sqrtm(A @ B)).real, terms


def precise_frechet(a, b):
    """In 50 digits, another way: with centred rows X, Y the trace of (A B)^(1/2) is the sum of the singular values of
    X Y' / sqrt((N-1)(M-1))."""
    with mpmath.workdps(50):
        def centred(x):
            x = mpmath.matrix(x.tolist())
            mean = [mpmath.fsum(x[:, j]) / x.rows for j in range(x.cols)]
            return mpmath.matrix([[x[i, j] - mean[j] for j in range(x.cols)] for i in range(x.rows)]), mean

        (x, mean_x), (y, mean_y) = centred(a), centred(b)
        terms = mpmath.fsum((p - q) ** 2 for p, q in zip(mean_x, mean_y))
        terms += mpmath.fsum(v**2 for v in x) / (x.rows - 1) + mpmath.fsum(v**2 for v in y) / (y.rows - 1)
        singular = mpmath.svd_r(x * y.T, compute_uv=False)
        distance = terms - 2 * mpmath.fsum(singular) / mpmath.sqrt((x.rows - 1) * (y.rows - 1))
        return float(distance) if abs(distance) > mpmath.mpf(10) ** -40 else 0.0


def cmmd(a, b):
    """1000 MMD^2, biased, of a Gaussian kernel on rows of length 1."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))

    def mean(x, y):
        square = ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)
        return np.exp(-square / (2 * SIGMA**2)).mean()

    return SCALE * (mean(a, a) + mean(b, b) - 2 * mean(a, b))


# ---- fixtures


def features(rng, rows, count, common):
    """Rows about a mean of their own, of a spectrum that falls off as that of a network's features does."""
    spread = np.exp(-4 * np.arange(count) / count)
    return common + 0.3 * rng.standard_normal(count) + rng.standard_normal((rows, count)) * spread


def sets(name, N, M, F, same):
    rng = fixture.generator(name)
    common = rng.uniform(0, 2, F)
    a = features(rng, N, F, common)
    return a, a if same else features(rng, M, F, common)


def write_frechet(name, N, M, F, same=False):
    a, b = sets(name, N, M, F, same)
    (distance, terms), precise = frechet(a, b), precise_frechet(a, b)
    full = min(N, M) > F
    assert abs(distance - precise) < (1e-13 if full else 1e-7) * terms, (distance, precise)
    fixture.write(name, "frechet", inputs=dict(a=a, b=b), outputs=dict(distance=np.float64(precise)))
    print(f"    {precise:.6g} of {terms:.6g}; sqrtm is off by {abs(distance - precise):.1e}")


def write_cmmd(name, N, M, F, same=False):
    a, b = sets(name, N, M, F, same)
    b = b * fixture.generator(name + " lengths").uniform(0.5, 2, (len(b), 1))  # only directions count
    distance = cmmd(a, b)
    fixture.write(name, "cmmd", inputs=dict(a=a, b=b), outputs=dict(distance=np.float64(distance)))
    print(f"    {distance:.6g}")


def main():
    write_frechet("frechet", 40, 31, 7)
    write_frechet("frechet_few", 6, 9, 14)  # fewer rows than features
    write_frechet("frechet_one_few", 5, 40, 9)  # one covariance of full rank
    write_frechet("frechet_one_feature", 8, 5, 1)
    write_frechet("frechet_same", 30, 30, 8, same=True)
    write_frechet("frechet_same_few", 6, 6, 14, same=True)
    write_cmmd("cmmd", 13, 17, 12)
    write_cmmd("cmmd_one", 1, 1, 6)
    write_cmmd("cmmd_same", 12, 12, 9, same=True)


if __name__ == "__main__":
    main()
