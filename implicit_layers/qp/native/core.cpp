// The quadratic programs' core: solver and linear solve for batches of problems, behind a plain C interface.
//
// One template covers two layouts. S is the type of one matrix entry:
//   S = double     one problem at a time, vectors run along the rows of a matrix      (large problems)
//   S = Vec        four problems at once, one per SIMD lane, every operation masked   (small problems)
// The names and the order of operations follow the Python files; read those for the mathematics. Problems never
// exchange numbers, so an element's answer does not depend on its neighbours.

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "adjoint.h"
#include "interior_point.h"

extern "C" struct SolveArguments {
    Problems data;
    int64_t max_iter, threads, active_set;  // active_set: try it first
    double eps_abs, eps_rel;
    const double *warm_x, *warm_lam;  // may be null
    int64_t stride_x, stride_lam;
    double *x, *lam;
    double *info;    // for every element: status, iterations, residuals (primal, dual, gap), slacks, and what is kept
    uint8_t *flags;  // for every element: active rows, touching rows
    int64_t keep;    // whether there is room for Kept::size(...) more numbers in `info`
};

extern "C" struct LinearArguments {
    Problems data;  // P, G and A count; bounds by their presence
    int64_t threads;
    const double *c, *rx, *rl;  // c null: 0 on active rows, infinite on the others; right-hand sides null: zero
    int64_t stride_c, stride_rx, stride_rl;
    const uint8_t *active;
    double *ux, *ul;
    uint8_t *bad;
};

namespace {

using Indices = std::vector<int64_t>;

// Where the report on one element goes.
struct Report {
    double *status, *iterations, *residuals, *s, *kept;  // `kept` may be null
    uint8_t *active, *touching;

    Report(const SolveArguments &a, int64_t b, int64_t n, int64_t total) {
        status = a.info + b * (MEASURES + total + (a.keep ? Kept::size(n, total, a.data.stride_P == 0) : 0));
        iterations = status + 1, residuals = status + 2, s = status + MEASURES, kept = a.keep ? s + total : nullptr;
        active = a.flags + 2 * b * total, touching = active + total;
    }
};

// One thread's room for a group of problems.
template <class S> struct Batch {
    static constexpr int L = Traits<S>::lanes;
    const SolveArguments &a;
    const Indices &index;
    Program<S> g;
    Solver<S> solver;
    Array<S> warm_x, warm_lam;
    bool invalid[L], asymmetric = false;

    Batch(const SolveArguments &arguments, const Indices &elements)
        : a(arguments), index(elements), g(int(a.data.n), int(a.data.m), int(a.data.p), a.data.ub, a.data.lb),
          solver(g, a.eps_abs, a.eps_rel, int(a.max_iter)) {
        warm_x.make(g.ld), warm_lam.make(g.total);
    }

    static int64_t groups(const Indices &elements) { return (int64_t(elements.size()) + L - 1) / L; }

    void run(int64_t group) {
        for (int l = 0; l < L; ++l) read(element(group, l), l);
        g.equilibrate(true);
        // Scaled to unit size, the slack of a tiny row far from every point of interest would drown the others'.
        const S tiny = TINY_ROW * largest(g.C.data, g.k * g.ld);
        for (int i = 0; i < g.k; ++i) {
            const S limit = FAR / abs2(g.d[i]), size = largest(g.C.data + (size_t)i * g.ld, g.n);
            g.E[i] = select((size > 0.0) & (size <= tiny) & (limit < g.E[i]), limit, g.E[i]);
        }
        g.scale_matrices(g.kappa);
        for (int j = 0; j < g.n; ++j) {
            g.q[j] *= g.kappa * g.D[j];
            g.unit_dual[j] = 1.0 / (g.D[j] * g.kappa);
        }
        for (int i = 0; i < g.total; ++i) g.d[i] *= g.E[i], g.unit_primal[i] = 1.0 / g.E[i];
        if (a.warm_x) {
            for (int l = 0; l < L; ++l) {
                const int64_t b = element(group, l);
                for (int j = 0; j < g.n; ++j) set_lane(warm_x[j], l, a.warm_x[b * a.stride_x + j]);
                for (int i = 0; i < g.total; ++i) set_lane(warm_lam[i], l, a.warm_lam[b * a.stride_lam + i]);
            }
            for (int j = 0; j < g.n; ++j) warm_x[j] /= g.D[j];
            for (int i = 0; i < g.total; ++i) warm_lam[i] *= g.kappa / g.E[i];
            solver.run(warm_x, warm_lam);
        } else {
            solver.run(nullptr, nullptr);
        }
        for (int l = 0; l < L; ++l)
            if (size_t(group * L + l) < index.size()) write(element(group, l), l);
    }

  private:
    int64_t element(int64_t group, int l) const {  // idle lanes of the last group repeat its last problem
        const size_t i = size_t(group * L + l);
        return i < index.size() ? index[i] : index.back();
    }

    void read(int64_t b, int l) {
        const Element e(a.data, b);
        const int n = g.n;
        const double *P = e.P;
        bool fine = true;
        double top = 0, off = 0;
        for (int i = 0; i < n; ++i) {
            fine &= finite(e.q[i]);
            for (int j = 0; j < n; ++j) {
                fine &= finite(P[(size_t)i * n + j]);
                top = max2(top, std::fabs(P[(size_t)i * n + j]));
                off = max2(off, std::fabs(P[(size_t)i * n + j] - P[(size_t)j * n + i]));
            }
        }
        for (int i = 0; i < g.k; ++i)
            for (int j = 0; j < n; ++j) fine &= finite(e.matrix_row(i)[j]);
        for (int i = 0; i < g.total; ++i) fine &= e.right(i) > -INF && (e.right(i) < INF || !e.equality(i));
        if (fine && off > ASYMMETRY * top) asymmetric = true;
        invalid[l] = !fine;
        // An invalid element is replaced by min 1/2 |x|², as in Python.
        for (int i = 0; i < n; ++i) {
            set_lane(g.q[i], l, fine ? e.q[i] : 0.0);
            for (int j = 0; j < n; ++j) {
                const double entry = 0.5 * (P[(size_t)i * n + j] + P[(size_t)j * n + i]);
                set_lane(g.P[(size_t)i * g.ld + j], l, fine ? entry : double(i == j));
            }
        }
        for (int i = 0; i < g.k; ++i)
            for (int j = 0; j < n; ++j) set_lane(g.C[(size_t)i * g.ld + j], l, fine ? e.matrix_row(i)[j] : 0.0);
        for (int i = 0; i < g.total; ++i) {
            const double d = e.right(i);
            const bool present = !fine || finite(d);
            set_lane(g.present[i], l, double(present));
            set_lane(g.inequality[i], l, double(present && !e.equality(i)));
            set_lane(g.d[i], l, fine && present ? d : 0.0);
        }
    }

    static double size(double residual) { return finite(residual) ? std::fabs(residual) : INF; }

    // Unscale, and measure the residuals of what is returned on the data as given.
    void write(int64_t b, int l) {
        const Element e(a.data, b);
        const double *P = e.P, *q = e.q;
        const int n = g.n, total = g.total;
        double *x = a.x + b * n, *lam = a.lam + b * total;
        const Report out(a, b, n, total);
        double *s = out.s;
        const double kappa = lane(g.kappa, l), nan = std::numeric_limits<double>::quiet_NaN();
        int64_t status = int64_t(lane(solver.status, l));
        if (invalid[l]) status = INVALID_INPUT;
        *out.status = double(status), *out.iterations += lane(solver.iterations, l);
        for (int i = 0; i < total; ++i) {
            const double scaled = lane(solver.best_lam[i], l), slack = lane(solver.best_s[i], l);
            const bool row = lane(g.inequality[i], l) > 0;
            out.active[i] = row ? scaled > slack : lane(g.present[i], l) > 0;
            out.touching[i] = out.active[i] || (row && slack <= WEAK);
            lam[i] = scaled * lane(g.E[i], l) / kappa;
        }
        for (int j = 0; j < n; ++j) x[j] = lane(solver.best_x[j], l) * lane(g.D[j], l);
        if (status == INVALID_INPUT) {
            for (int j = 0; j < n; ++j) x[j] = nan;
            for (int i = 0; i < total; ++i) lam[i] = s[i] = nan;
            out.residuals[0] = out.residuals[1] = out.residuals[2] = nan;
            return;
        }
        if (status == PRIMAL_INFEASIBLE || status == DUAL_INFEASIBLE) {  // certificates: d'lam = -1, q'x = -1
            double inner = 0;
            if (status == PRIMAL_INFEASIBLE) {
                for (int i = 0; i < total; ++i) inner -= finite(e.right(i)) ? e.right(i) * lam[i] : 0.0;
                for (int i = 0; i < total; ++i) lam[i] /= inner;
            } else {
                inner = -dot(q, x, 0, n);
                for (int j = 0; j < n; ++j) x[j] /= inner;
            }
        }
        double primal = 0, dual = 0, gap = 0;
        for (int i = 0; i < total; ++i) {
            const double d = e.right(i);
            const double Rx = i < g.k ? dot(e.matrix_row(i), x, 0, n) : e.sign(i) * x[e.variable(i)];
            if (!finite(d)) {
                s[i] = INF;
                continue;
            }
            s[i] = e.equality(i) ? 0.0 : max2(d - Rx, 0.0);
            primal = max2(primal, size(Rx + s[i] - d));
            gap += d * lam[i];
        }
        double *r = reinterpret_cast<double *>(g.scratch_n.data);
        for (int j = 0; j < n; ++j) {
            r[j] = q[j];
            if (g.upper) r[j] += lam[g.k + j];
            if (g.lower) r[j] -= lam[g.k + (g.upper ? n : 0) + j];
        }
        for (int i = 0; i < g.k; ++i) axpy(lam[i], e.matrix_row(i), r, 0, n);
        double xPx = 0, qx = 0;
        for (int i = 0; i < n; ++i) {
            double Px = 0;
            for (int j = 0; j < n; ++j) Px += 0.5 * (P[(size_t)i * n + j] + P[(size_t)j * n + i]) * x[j];
            dual = max2(dual, size(Px + r[i]));
            xPx += x[i] * Px, qx += q[i] * x[i];
        }
        gap = size(xPx + qx + gap);
        out.residuals[0] = primal, out.residuals[1] = dual, out.residuals[2] = gap;
        // The caller's units may overflow where the scaled ones did not: what cannot be measured is not solved.
        if (status == SOLVED && max2(max2(primal, dual), gap) == INF) *out.status = NUMERICAL_ERROR;
    }
};

// [P R'; R -diag(c)] u = r by proximal refinement; `bad` where that does not converge (J is singular there).
template <class S> struct LinearBatch {
    using Mask = typename Traits<S>::Mask;
    static constexpr int L = Traits<S>::lanes;
    const LinearArguments &a;
    const Indices &index;
    Program<S> g;
    Array<S> c, w, held, rx, rl, ux, ul, ex, el, nx, nl, fx, fl, Sx, Sl;
    bool asymmetric = false;

    LinearBatch(const LinearArguments &arguments, const Indices &elements)
        : a(arguments), index(elements), g(int(a.data.n), int(a.data.m), int(a.data.p), a.data.ub, a.data.lb) {
        for (Array<S> *v : {&rx, &ux, &ex, &nx, &fx, &Sx}) v->make(g.ld);
        for (Array<S> *v : {&c, &w, &held, &rl, &ul, &el, &nl, &fl, &Sl}) v->make(g.total);
    }

    static int64_t groups(const Indices &elements) { return (int64_t(elements.size()) + L - 1) / L; }

    void run(int64_t group) {
        const int n = g.n, total = g.total;
        const size_t first = size_t(group) * L;
        for (int l = 0; l < L; ++l) read(first + l < index.size() ? index[first + l] : index.back(), l);
        const Mask silent = max2(largest<S>(rx, n), largest<S>(rl, total)) + sum_of_nans() == 0.0;
        g.equilibrate(false);
        g.scale_matrices(g.kappa);
        const S scale = root(g.kappa);
        for (int j = 0; j < n; ++j) Sx[j] = scale * g.D[j], rx[j] *= Sx[j], ux[j] = S{}, ex[j] = rx[j];
        for (int i = 0; i < total; ++i) {
            const Mask row = held[i] > 0.0;
            Sl[i] = g.E[i] / scale;
            c[i] *= Sl[i] * Sl[i];
            rl[i] = select(row, rl[i] * Sl[i], S{}), ul[i] = S{}, el[i] = rl[i];
            w[i] = select(row, 1.0 / (c[i] + DELTA), S{});
        }
        // Silent before scaling: an infinity in the matrix makes the scaled zero NaN.
        const S size = select(silent, S{}, max2(largest<S>(rx, n), largest<S>(rl, total)) + sum_of_nans());
        const Mask ok = g.factorise(w, splat<S>(RHO));
        S error = size;
        for (int step = 0; step < REFINEMENTS; ++step) {
            for (int i = 0; i < total; ++i) nl[i] = w[i] * el[i];
            g.transpose(nl, nx);
            for (int j = 0; j < n; ++j) nx[j] += ex[j];
            g.solve(nx);
            g.apply(nx, nl);
            for (int i = 0; i < total; ++i) nl[i] = ul[i] + w[i] * (nl[i] - el[i]);
            for (int j = 0; j < n; ++j) nx[j] += ux[j];
            g.times_P(nx, fx), g.transpose(nl, Rl()), g.apply(nx, fl);
            for (int j = 0; j < n; ++j) fx[j] = rx[j] - fx[j] - Rl()[j];
            for (int i = 0; i < total; ++i) fl[i] = select(held[i] > 0.0, rl[i] - fl[i] + c[i] * nl[i], S{});
            S check{};
            for (int j = 0; j < n; ++j) check += abs2(fx[j]);
            for (int i = 0; i < total; ++i) check += abs2(fl[i]);
            const S now = select(finite(check), max2(largest<S>(fx, n), largest<S>(fl, total)), splat<S>(INF));
            const Mask better = now < error;  // past round-off, steps are noise
            error = select(better, now, error);
            for (int j = 0; j < n; ++j) ux[j] = select(better, nx[j], ux[j]), ex[j] = select(better, fx[j], ex[j]);
            for (int i = 0; i < total; ++i)
                ul[i] = select(better, nl[i], ul[i]), el[i] = select(better, fl[i], el[i]);
            if (!any(better)) break;
        }
        for (int l = 0; l < L; ++l) {
            if (first + l >= index.size()) break;
            const int64_t b = index[first + l];
            const double norm = lane(size, l);
            const bool known = norm == 0 || norm != norm;  // u = 0 for r = 0, and NaN for NaN, whatever the matrix
            a.bad[b] = !known && !(lane(error, l) <= SINGULAR * norm && lane(ok, l));
            for (int j = 0; j < n; ++j) a.ux[b * n + j] = known ? norm : lane(S(ux[j] * Sx[j]), l);
            for (int i = 0; i < total; ++i) a.ul[b * total + i] = known ? norm : lane(S(ul[i] * Sl[i]), l);
        }
    }

  private:
    S *Rl() { return g.scratch_n; }

    S sum_of_nans() const {  // zero, if all of r is finite
        S nan{};
        for (int j = 0; j < g.n; ++j) nan += 0.0 * rx.data[j];
        for (int i = 0; i < g.total; ++i) nan += 0.0 * rl.data[i];
        return nan;
    }

    void read(int64_t b, int l) {
        const Element e(a.data, b);
        const int n = g.n;
        const double *P = e.P, *rx_ = a.rx ? a.rx + b * a.stride_rx : nullptr, *rl_ = a.rl ? a.rl + b * a.stride_rl : nullptr;
        for (int i = 0; i < n; ++i) {
            set_lane(rx[i], l, rx_ ? rx_[i] : 0.0);
            for (int j = 0; j < n; ++j)
                set_lane(g.P[(size_t)i * g.ld + j], l, 0.5 * (P[(size_t)i * n + j] + P[(size_t)j * n + i]));
        }
        for (int i = 0; i < g.k; ++i)
            for (int j = 0; j < n; ++j) set_lane(g.C[(size_t)i * g.ld + j], l, e.matrix_row(i)[j]);
        for (int i = 0; i < g.total; ++i) {
            const double weight = a.c ? a.c[b * a.stride_c + i] : a.active[b * g.total + i] ? 0.0 : INF;
            const bool row = finite(weight);
            set_lane(g.present[i], l, 1.0);
            set_lane(held[i], l, double(row)), set_lane(c[i], l, row ? weight : 1.0);
            set_lane(rl[i], l, rl_ ? rl_[i] : 0.0);
        }
    }
};

// Share `count` pieces of work out to threads; each thread makes a worker of its own and a piece belongs to one of them.
// `flops` is the work in one piece: a thread costs about as much as 2e5 of them. Returns 2 where memory ran out.
template <class Make> int share(int64_t count, int64_t threads, double flops, Make make) {
    std::atomic<int64_t> next{0};
    std::atomic<int> flags{0};
    auto labour = [&] {
        try {
            auto worker = make();
            for (int64_t piece; (piece = next.fetch_add(1)) < count;) worker->run(piece);
            flags |= int(worker->flag);
        } catch (const std::bad_alloc &) {
            flags |= 2;
        }
    };
    const double useful = flops * double(count) / 2e5;
    const int64_t helpers = std::min({threads, count, useful < 1e6 ? int64_t(useful) : threads}) - 1;
    std::vector<std::thread> pool;
    try {
        for (int64_t i = 0; i < helpers; ++i) pool.emplace_back(labour);
    } catch (...) {  // no more threads to be had: this one does the rest
    }
    if (count) labour();
    for (std::thread &thread : pool) thread.join();
    return flags;
}

double cube(const Problems &a) { return double(a.n) * double(a.n) * double(a.n + a.m + a.p); }

constexpr int64_t RUN = 8;         // elements of a piece that takes them one by one
constexpr double OVERHEAD = 2000;  // work in the smallest element, in flops

// Solve each element of a run by the active set method; mark those that are left over.
template <class Method> struct QuickRun {
    const SolveArguments &a;
    uint8_t *left;
    Method solver;
    int flag = 0;

    QuickRun(const SolveArguments &arguments, uint8_t *left_) : a(arguments), left(left_), solver(a.data) {}

    void run(int64_t piece) {
        const int64_t n = a.data.n, end = std::min((piece + 1) * RUN, a.data.batch);
        const int64_t total = Element(a.data, 0).total;
        for (int64_t b = piece * RUN; b < end; ++b) {
            const Report out(a, b, n, total);
            const double *warm = a.warm_lam ? a.warm_lam + b * a.stride_lam : nullptr;
            left[b] = !solver.solve(b, a.eps_abs, a.eps_rel, int(a.max_iter), warm);
            *out.iterations = solver.iterations();
            if (out.kept) *out.kept = Kept::NOTHING;
            if (left[b]) continue;
            solver.write(a.x + b * n, a.lam + b * total, out.s, out.active, out.touching, out.kept);
            *out.status = SOLVED;
            out.residuals[0] = solver.primal, out.residuals[1] = solver.dual, out.residuals[2] = solver.gap;
        }
    }
};

template <class Method> int run_quickly(const SolveArguments &a, uint8_t *left) {
    return share((a.data.batch + RUN - 1) / RUN, a.threads, (cube(a.data) + OVERHEAD) * RUN,
                 [&] { return std::make_unique<QuickRun<Method>>(a, left); });
}

int solve_quickly(const SolveArguments &a, uint8_t *left) {
    switch (a.data.n <= SMALL ? round_up(int(a.data.n)) : 0) {
    case 4: return run_quickly<SmallActiveSet<4>>(a, left);
    case 8: return run_quickly<SmallActiveSet<8>>(a, left);
    case 12: return run_quickly<SmallActiveSet<12>>(a, left);
    case 16: return run_quickly<SmallActiveSet<16>>(a, left);
    case 20: return run_quickly<SmallActiveSet<20>>(a, left);
    case 24: return run_quickly<SmallActiveSet<24>>(a, left);
    default: return run_quickly<ActiveSet>(a, left);
    }
}

// A worker that takes groups of elements, one group for every piece.
template <class Work> struct Grouped : Work {
    int flag = 0;
    using Work::Work;
    void run(int64_t group) {
        Work::run(group);
        flag |= int(this->asymmetric);
    }
};

template <class S> int interior_point(const SolveArguments &a, const Indices &index) {
    using Worker = Grouped<Batch<S>>;
    return share(Worker::groups(index), a.threads, 10 * cube(a.data) * Traits<S>::lanes,
                 [&] { return std::make_unique<Worker>(a, index); });
}

template <class S> int linear(const LinearArguments &a, const Indices &index) {
    using Worker = Grouped<LinearBatch<S>>;
    return share(Worker::groups(index), a.threads, cube(a.data) * Traits<S>::lanes,
                 [&] { return std::make_unique<Worker>(a, index); });
}

Indices collect(const std::vector<uint8_t> &marked) {
    Indices index;
    for (size_t b = 0; b < marked.size(); ++b)
        if (marked[b]) index.push_back(int64_t(b));
    return index;
}

int solve(const SolveArguments &a, int lanes) {
    const int64_t total = Element(a.data, 0).total;
    std::vector<uint8_t> left(size_t(a.data.batch), 1);
    int flags = 0;
    if (a.active_set) {
        flags |= solve_quickly(a, left.data());
    } else {
        for (int64_t b = 0; b < a.data.batch; ++b) {
            const Report out(a, b, a.data.n, total);
            *out.iterations = 0;
            if (out.kept) *out.kept = Kept::NOTHING;
        }
    }
    const Indices rest = collect(left);
    if (flags & 2 || rest.empty()) return flags;
    flags |= lanes ? interior_point<Vec>(a, rest) : interior_point<double>(a, rest);
    for (int64_t b : rest)
        if (*Report(a, b, a.data.n, total).status != SOLVED) return flags | 4;
    return flags;
}

int solve_linear(const LinearArguments &a, int lanes) {
    Indices index(size_t(a.data.batch));
    for (size_t b = 0; b < index.size(); ++b) index[b] = int64_t(b);
    return lanes ? linear<Vec>(a, index) : linear<double>(a, index);
}

struct AdjointRun {
    const AdjointArguments &a;
    uint8_t *left;
    KeptAdjoint adjoint;
    Gradients gradients{a};
    int flag = 0;

    AdjointRun(const AdjointArguments &arguments, uint8_t *left_) : a(arguments), left(left_), adjoint(a) {}

    void run(int64_t piece) {
        for (int64_t b = piece * RUN; b < std::min((piece + 1) * RUN, a.data.batch); ++b) {
            left[b] = !adjoint.solve(b);
            if (a.u) adjoint.write(b);
            if (!left[b]) gradients.write(b, adjoint.ux, adjoint.ul);
        }
    }
};

int adjoint(const AdjointArguments &a, int lanes) {
    std::vector<uint8_t> left(size_t(a.data.batch), 0);
    int flags = share((a.data.batch + RUN - 1) / RUN, a.threads, (10 * double(a.data.n) * double(a.data.n) + OVERHEAD) * RUN,
                      [&] { return std::make_unique<AdjointRun>(a, left.data()); });
    const Indices rest = collect(left);
    if (flags & 2 || rest.empty()) return flags;
    if (!a.u) return flags | 4;  // the caller comes again with room for the adjoint
    const int64_t n = a.data.n, total = Element(a.data, 0).total, step = n + total + 1;
    std::vector<double> ux(size_t(a.data.batch * n)), ul(size_t(a.data.batch * total));
    std::vector<uint8_t> bad(size_t(a.data.batch), 0), active(size_t(a.data.batch * total));
    for (int64_t b : rest) std::copy_n(a.flags + 2 * b * total, total, active.begin() + b * total);
    const LinearArguments system{a.data, a.threads, nullptr, a.vx, a.vl, 0, n, total, active.data(), ux.data(), ul.data(), bad.data()};
    flags |= (lanes ? linear<Vec>(system, rest) : linear<double>(system, rest)) & 2;
    for (int64_t b : rest) {
        double *u = a.u + b * step;
        std::copy_n(ux.begin() + b * n, n, u), std::copy_n(ul.begin() + b * total, total, u + n);
        u[n + total] = bad[size_t(b)];
        Gradients{a}.write(b, u, u + n);
        flags |= bad[size_t(b)] ? 4 : 0;
    }
    return flags;
}

}  // namespace

// All return 0 or a sum of 1 (some P is not symmetric), 2 (out of memory) and 4 (not every element succeeded).
// `lanes` chooses the layout of the interior point method and the linear solve: 0 row-wise, 1 a problem per SIMD lane.
extern "C" int il_solve(const SolveArguments *a, int lanes) { return solve(*a, lanes); }
extern "C" int il_linear(const LinearArguments *a, int lanes) { return solve_linear(*a, lanes); }
extern "C" int il_adjoint(const AdjointArguments *a, int lanes) { return adjoint(*a, lanes); }
extern "C" int64_t il_kept_size(int64_t n, int64_t total, int shared_P) { return Kept::size(n, total, shared_P != 0); }
