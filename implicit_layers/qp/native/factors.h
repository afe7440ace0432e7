// Dense triangular factors by rows of `ld` entries, a multiple of LANES: A = U'U, with the inverse of U's diagonal apart.
#pragma once

#include "program.h"

namespace {

inline int round_up(int n) { return (n + LANES - 1) / LANES * LANES; }

// V rows (already holding the rows of the matrix) <- U⁻ᵀ row, for ROWS of them side by side; entries before `from` are 0.
template <int ROWS> void forward_rows(const double *U, const double *inverse, int n, int ld, double *V, int from) {
    for (int l = from - from % 4; l < n; l += 4) {
        const int block = n - l < 4 ? n - l : 4;
        double a[4][ROWS];
        for (int r = 0; r < ROWS; ++r) {
            double *v = V + (size_t)r * ld;
            for (int i = 0; i < block; ++i) {
                v[l + i] *= inverse[l + i];
                a[i][r] = v[l + i];
                for (int j = l + i + 1; j < l + block; ++j) v[j] -= a[i][r] * U[(size_t)(l + i) * ld + j];
            }
        }
        if (block < 4) return;
        const double *u = U + (size_t)l * ld;
        for (int j = l + 4; j < ld; j += 4) {
            const Vec u0 = load(u + j), u1 = load(u + ld + j), u2 = load(u + 2 * ld + j), u3 = load(u + 3 * ld + j);
            for (int r = 0; r < ROWS; ++r) {
                double *v = V + (size_t)r * ld + j;
                Vec sum = load(v);
                sum -= a[0][r] * u0, sum -= a[1][r] * u1, sum -= a[2][r] * u2, sum -= a[3][r] * u3;
                store(v, sum);
            }
        }
    }
}

// Inner products of A rows of `a` with B rows of `b`; every one is summed in the same order whatever A and B.
template <int A, int B> void inner_products(const double *a, const double *b, int ld, double (&out)[A][B]) {
    Vec sum[A][B] = {};
    for (int j = 0; j < ld; j += 4)
        for (int i = 0; i < A; ++i) {
            const Vec left = load(a + (size_t)i * ld + j);
            for (int l = 0; l < B; ++l) sum[i][l] += left * load(b + (size_t)l * ld + j);
        }
    for (int i = 0; i < A; ++i)
        for (int l = 0; l < B; ++l) out[i][l] = sum[i][l][0] + sum[i][l][1] + sum[i][l][2] + sum[i][l][3];
}

// Factor A = U'U in place, block row by block row from row `first` on (a multiple of 4; what is above is factored).
// The diagonal of U is replaced by its inverse, kept in `inverse`. Returns the first row whose pivot is not above
// share * |A_ii|, or n.
inline int cholesky(const double *A, double *U, double *inverse, int n, int ld, int first, double share) {
    for (int i = first; i < n; i += 4) {
        const int rows = n - i < 4 ? n - i : 4;
        switch (rows) {
        case 4: block_row<4, double>(A, nullptr, nullptr, nullptr, 0, U, ld, i, round_up(n)); break;
        case 3: block_row<3, double>(A, nullptr, nullptr, nullptr, 0, U, ld, i, round_up(n)); break;
        case 2: block_row<2, double>(A, nullptr, nullptr, nullptr, 0, U, ld, i, round_up(n)); break;
        default: block_row<1, double>(A, nullptr, nullptr, nullptr, 0, U, ld, i, round_up(n));
        }
        for (int r = i; r < i + rows; ++r) {
            double *row = U + (size_t)r * ld;
            for (int above = i; above < r; ++above)
                axpy(-U[(size_t)above * ld + r], U + (size_t)above * ld, row, r, n);
            if (!(row[r] > share * std::fabs(A[(size_t)r * ld + r]))) return r;
            inverse[r] = 1.0 / std::sqrt(row[r]);
            for (int j = r; j < n; ++j) row[j] *= inverse[r];
        }
    }
    return n;
}

inline void forward(const double *U, const double *inverse, int n, int ld, double *r) {  // r <- U⁻ᵀ r
    for (int i = 0; i < n; ++i) {
        r[i] *= inverse[i];
        axpy(-r[i], U + (size_t)i * ld, r, i + 1, n);
    }
}

inline void backward(const double *U, const double *inverse, int n, int ld, double *r) {  // r <- U⁻¹ r
    for (int i = n - 1; i >= 0; --i) r[i] = (r[i] - dot(U + (size_t)i * ld, r, i + 1, n)) * inverse[i];
}

// The upper triangle of M by rows, the diagonal from elsewhere; returns where it ends.
inline double *pack(const double *M, const double *diagonal, int n, int ld, double *out) {
    for (int i = 0; i < n; ++i) {
        *out++ = diagonal[i];
        std::memcpy(out, M + (size_t)i * ld + i + 1, (n - i - 1) * sizeof(double));
        out += n - i - 1;
    }
    return out;
}

}  // namespace
