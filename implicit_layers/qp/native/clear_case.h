// What the quick methods share: which cases are clear, how they are measured, and what is kept for the backward pass.
#pragma once

#include "factors.h"
#include "problems.h"

namespace {

constexpr double DEFINITE = 1e-10;     // share of its diagonal entry that a pivot of P must keep
constexpr double INDEPENDENT = 1e-10;  // the same for K
constexpr double CLEAR = 1e-9;         // relative size below which a slack or a multiplier may as well be zero
constexpr double ROUNDED = 1e-13;      // asymmetry of P, relative, that the adjoint need not correct
constexpr int SMALL = 24;              // up to this n, the method of small_active_set.h

// How far an answer is from optimal, and the sizes that relative tolerances refer to.
struct Residuals {
    double primal = 0, dual = 0, gap = 0;
    double reach_primal = 0, scale = 0;  // largest terms of the primal and of the dual residual
    double xPx = 0, qx = 0, dz = 0;      // terms of the gap

    bool within(double eps_abs, double eps_rel) const {
        const double gap_size = max2(max2(std::fabs(xPx), std::fabs(qx)), std::fabs(dz));
        return dual <= eps_abs + eps_rel * scale && primal <= eps_abs + eps_rel * reach_primal &&
               gap <= eps_abs + eps_rel * gap_size && finite(gap);  // its terms may overflow, all the rest be fine
    }
};

constexpr int64_t MEASURES = 5;  // of a report: status, iterations, and the residuals primal, dual and gap

// What the backward pass needs of a solution of more than SMALL unknowns: the number of active rows, their indices, and the upper triangles of R and
// U by rows with inverted diagonals; U only where every element has its own P.
struct Kept {
    static constexpr int NOTHING = -1, SEPARABLE = -2;  // instead of the number of rows
    static int64_t size(int64_t n, int64_t total, bool shared_P) {
        const int64_t most = n < total ? n : total;
        if (n <= SMALL) return 1 + most + (most + n) * round_up(int(n));  // K_WW⁻¹ and P⁻¹ instead
        return 1 + most + most * (most + 1) / 2 + (shared_P ? 0 : n * (n + 1) / 2);
    }
};

}  // namespace
