// The batch as the caller holds it: eight arrays, each shared or with one block for every element.
#pragma once

#include "simd.h"

// Null where an argument is absent; a stride of 0 means that all elements share the array.
extern "C" struct Problems {
    int64_t batch, n, m, p;
    const double *P, *q, *G, *h, *A, *b, *lb, *ub;
    int64_t stride_P, stride_q, stride_G, stride_h, stride_A, stride_b, stride_lb, stride_ub;
};

namespace {

// One problem of a batch. Its rows are stacked as in Python: Gx <= h, Ax = b, x <= ub, -x <= -lb.
struct Element {
    int n, m, p, k, total, lower_from;  // k: rows of matrices; lower bounds begin at lower_from
    bool upper, lower;
    const double *P, *q, *G, *h, *A, *b, *lb, *ub;

    Element(const Problems &a, int64_t i)
        : n(int(a.n)), m(int(a.m)), p(int(a.p)), k(m + p), total(k + n * (int(a.ub != nullptr) + int(a.lb != nullptr))),
          lower_from(k + (a.ub ? n : 0)), upper(a.ub != nullptr), lower(a.lb != nullptr), P(a.P + i * a.stride_P),
          q(a.q + i * a.stride_q), G(a.G + i * a.stride_G), h(a.h + i * a.stride_h), A(a.A + i * a.stride_A),
          b(a.b + i * a.stride_b), lb(a.lb + i * a.stride_lb), ub(a.ub + i * a.stride_ub) {}

    bool equality(int row) const { return row >= m && row < k; }
    const double *matrix_row(int row) const { return row < m ? G + (size_t)row * n : A + (size_t)(row - m) * n; }
    int variable(int row) const { return row < lower_from ? row - k : row - lower_from; }  // of a bound
    double sign(int row) const { return row < lower_from ? 1.0 : -1.0; }                   // of a bound's row
    double right(int row) const {
        if (row < k) return row < m ? h[row] : b[row - m];
        return row < lower_from ? ub[row - k] : -lb[row - lower_from];
    }
};

}  // namespace
