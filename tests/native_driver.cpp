// Fuzzes the compiled core in a process of its own, so that sanitizers can watch every access.
//
//   native_driver CASES SEED
//
// Every array handed to the core has exactly the size that the interface promises, in a heap block of its own. Checked
// besides: every output is written, statuses and counts make sense, and what counts as solved is finite.

#include "../implicit_layers/qp/native/core.cpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>

namespace {

std::mt19937_64 generator;

int64_t among(int64_t low, int64_t high) { return low + int64_t(generator() % uint64_t(high - low + 1)); }
bool chance(int percent) { return among(1, 100) <= percent; }
double normal() { return std::normal_distribution<double>()(generator); }

// A heap block without slack; std::vector may keep some.
template <class T> struct Block {
    int64_t size;
    std::unique_ptr<T[]> data;
    explicit Block(int64_t count) : size(count), data(new T[size_t(count)]) {}
    T &operator[](int64_t i) { return data[size_t(i)]; }
    T *get() { return data.get(); }
};

// Outputs start as this, a NaN that no computation makes.
constexpr uint64_t UNTOUCHED = 0x7ff4dead4badbeefull;

Block<double> unwritten(int64_t count) {
    Block<double> block(count);
    for (int64_t i = 0; i < count; ++i) std::memcpy(&block[i], &UNTOUCHED, sizeof UNTOUCHED);
    return block;
}

void require(bool fine, const char *what) {
    if (fine) return;
    std::fprintf(stderr, "native_driver: %s\n", what);
    std::exit(1);
}

void require_written(Block<double> &block, const char *what) {
    for (int64_t i = 0; i < block.size; ++i) require(std::memcmp(&block[i], &UNTOUCHED, sizeof UNTOUCHED) != 0, what);
}

double odd_number() {
    if (chance(25)) return std::numeric_limits<double>::quiet_NaN();
    static const double numbers[] = {0.0,    -0.0,   5e-324, -1e-310, 1e-200, 1e200,  -1e300, 1.7e308, -1.7e308,
                                     INF,    -INF,   1.0,    1e-8,    1e8};
    return numbers[among(0, int64_t(sizeof numbers / sizeof *numbers) - 1)];
}

struct Sizes {
    int64_t batch, n, m, p, upper, lower;
    int64_t k() const { return m + p; }
    int64_t total() const { return m + p + n * (upper + lower); }
};

Sizes random_sizes() {
    const int64_t n = chance(20) ? among(1, 4) : among(1, 40);
    if (chance(15)) return {among(1, 9), n, 0, among(0, 1), among(0, 1), among(0, 1)};  // often separable: see `curvature`
    return {among(1, 9), n, chance(25) ? 0 : among(1, 30), chance(40) ? 0 : among(1, n), among(0, 1), among(0, 1)};
}

// One tensor for the batch or one for all: entries from `draw`, some of them odd.
template <class Draw> Block<double> tensor(const Sizes &z, int64_t size, int64_t &stride, int odd, Draw draw) {
    const bool shared = chance(30);
    stride = shared ? 0 : size;
    Block<double> block(shared ? size : size * z.batch);
    for (int64_t i = 0; i < block.size; ++i) block[i] = chance(odd) && chance(10) ? odd_number() : draw(size ? i % size : 0);
    return block;
}

// P = L L' / n of some rank, now and then indefinite or not symmetric.
Block<double> curvature(const Sizes &z, int64_t &stride, int odd) {
    const int64_t n = z.n, rank = chance(70) ? n : among(0, n);
    Block<double> P = tensor(z, n * n, stride, 0, [](int64_t) { return 0.0; });
    std::vector<double> L(size_t(n * rank));
    for (int64_t base = 0; base < P.size; base += n * n) {
        for (double &entry : L) entry = normal();
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < n; ++j)
                for (int64_t l = 0; l < rank; ++l) P[base + i * n + j] += L[size_t(i * rank + l)] * L[size_t(j * rank + l)] / double(n);
        if (chance(z.m ? 15 : 60))
            for (int64_t i = 0; i < n * n; ++i) P[base + i] = i % (n + 1) ? 0.0 : 0.1 + std::fabs(normal());
        if (chance(5)) P[base] -= 3.0;
        if (chance(odd)) P[base + among(0, n * n - 1)] = odd_number();
    }
    return P;
}

// The eight arguments of random problems; some are absent, some shared.
struct Data {
    Sizes z;
    Problems a{};
    Block<double> P, q, G, h, A, b, lb, ub;

    Data(const Sizes &sizes, int odd)
        : z(sizes), P(curvature(z, a.stride_P, odd)), q(tensor(z, z.n, a.stride_q, odd, any_number)),
          G(tensor(z, z.m * z.n, a.stride_G, odd, any_number)), h(tensor(z, z.m, a.stride_h, odd, side)),
          A(tensor(z, z.p * z.n, a.stride_A, odd, any_number)), b(tensor(z, z.p, a.stride_b, odd, any_number)),
          lb(tensor(z, z.n, a.stride_lb, odd, [](int64_t i) { return -side(i); })),
          ub(tensor(z, z.n, a.stride_ub, odd, side)) {
        a.batch = z.batch, a.n = z.n, a.m = z.m, a.p = z.p, a.P = P.get(), a.q = q.get();
        if (z.m) a.G = G.get(), a.h = h.get();
        if (z.p) a.A = A.get(), a.b = b.get();
        if (z.lower) a.lb = lb.get();
        if (z.upper) a.ub = ub.get();
    }

    static double any_number(int64_t) { return normal(); }
    static double side(int64_t) { return chance(15) ? INF : std::fabs(normal()) + (chance(90) ? 0.5 : -1.0); }
};

Block<uint8_t> flags_of(int64_t count) {
    Block<uint8_t> block(count);
    for (int64_t i = 0; i < count; ++i) block[i] = 77;
    return block;
}

// The backward pass of what was just solved.
void adjoint_case(const Data &data, const SolveArguments &solved) {
    const Sizes &z = data.z;
    AdjointArguments a{};
    a.data = data.a, a.threads = among(1, 3), a.x = solved.x, a.lam = solved.lam, a.info = solved.info;
    a.flags = solved.flags, a.keep = solved.keep;
    const auto entry = [] { return chance(2) ? odd_number() : chance(80) ? normal() : 0.0; };
    Block<double> vx(z.batch * z.n), vl(z.batch * z.total());
    for (int64_t i = 0; i < vx.size; ++i) vx[i] = entry();
    for (int64_t i = 0; i < vl.size; ++i) vl[i] = entry();
    if (chance(80)) a.vx = vx.get();
    if (chance(50)) a.vl = vl.get();
    const int64_t step = z.n + z.total() + 1;
    Block<double> u = unwritten(z.batch * step);
    if (chance(50)) a.u = u.get();
    std::vector<Block<double>> out;
    out.reserve(8);
    const auto gradient = [&](const double *given, int64_t size) -> double * {
        if (!given || chance(20)) return nullptr;
        out.push_back(unwritten(z.batch * size));
        return out.back().get();
    };
    a.gP = gradient(a.data.P, z.n * z.n), a.gq = gradient(a.data.q, z.n), a.gG = gradient(a.data.G, z.m * z.n);
    a.gh = gradient(a.data.h, z.m), a.gA = gradient(a.data.A, z.p * z.n), a.gb = gradient(a.data.b, z.p);
    a.glb = gradient(a.data.lb, z.n), a.gub = gradient(a.data.ub, z.n);
    const int flags = il_adjoint(&a, int(among(0, 1)));
    require(flags == 0 || flags == 4, "il_adjoint returned an unknown flag");
    if (!a.u && flags) return;  // to be called again with room for the adjoint
    for (auto &block : out) require_written(block, "il_adjoint left a gradient unwritten");
    if (!a.u) return;
    require_written(u, "il_adjoint left an output unwritten");
    bool complete = true;
    for (int64_t b = 0; b < z.batch; ++b) {
        const double bad = u[b * step + step - 1];
        require(bad == 0 || bad == 1, "a flag is neither 0 nor 1");
        complete &= bad == 0;
    }
    require(complete == !flags, "the flag of failures does not tell of them");
}

void solve_case() {
    const Sizes z = random_sizes();
    const int odd = chance(30) ? chance(50) ? 10 : 50 : 0;
    const Data data(z, odd);
    SolveArguments a{};
    a.data = data.a, a.active_set = chance(75), a.keep = chance(70);
    a.max_iter = chance(70) ? 30 : among(1, 3), a.threads = among(1, 3), a.eps_abs = 1e-9, a.eps_rel = 1e-9;
    Block<double> warm_x = tensor(z, z.n, a.stride_x, odd, Data::any_number),
                  warm_lam = tensor(z, z.total(), a.stride_lam, odd, Data::any_number);
    if (chance(40)) a.warm_x = warm_x.get(), a.warm_lam = warm_lam.get();
    const int64_t total = z.total(), step = 5 + total + (a.keep ? il_kept_size(z.n, total, a.data.stride_P == 0) : 0);
    Block<double> x = unwritten(z.batch * z.n), lam = unwritten(z.batch * total), info = unwritten(z.batch * step);
    Block<uint8_t> flags = flags_of(z.batch * 2 * total);
    a.x = x.get(), a.lam = lam.get(), a.info = info.get(), a.flags = flags.get();
    const int result = il_solve(&a, int(among(0, 1)));
    require((result & ~5) == 0, "il_solve returned an unknown flag");
    for (auto *output : {&x, &lam}) require_written(*output, "il_solve left an output unwritten");
    bool complete = true;
    for (int64_t b = 0; b < z.batch; ++b) {
        const uint8_t *active = flags.get() + 2 * b * total, *touching = active + total;
        for (int64_t i = 0; i < total; ++i) {
            require(active[i] <= 1 && touching[i] <= 1, "a flag is neither 0 nor 1");
            require(touching[i] >= active[i], "an active row does not touch");
        }
        const double *report = info.get() + b * step, status = report[0];
        for (int64_t i = 0; i < 5 + total; ++i)
            require(std::memcmp(report + i, &UNTOUCHED, sizeof UNTOUCHED) != 0, "il_solve left a report unwritten");
        require(status >= SOLVED && status <= INVALID_INPUT && status == std::floor(status), "an unknown status");
        require(report[1] >= 0 && report[1] <= double(4 * a.max_iter + 60), "more factorisations than allowed");
        complete &= status == SOLVED;
        if (status != SOLVED) continue;
        for (int64_t i = 2; i < 5; ++i) require(finite(report[i]), "a solved element without finite residuals");
        for (int64_t j = 0; j < z.n; ++j) require(finite(x[b * z.n + j]), "a solved element that is not finite");
    }
    require(complete == !(result & 4), "the flag of failures does not tell of them");
    adjoint_case(data, a);
}

void linear_case() {
    const Sizes z = random_sizes();
    const int odd = chance(30) ? chance(50) ? 10 : 50 : 0;
    const Data data(z, odd);
    LinearArguments a{};
    a.data = data.a, a.threads = among(1, 3);
    const bool zero = chance(10);
    const auto right_side = [&](int64_t) { return zero ? 0.0 : normal(); };
    const auto compliance = [](int64_t) { return chance(60) ? INF : chance(50) ? 0.0 : std::fabs(normal()); };
    Block<double> c = tensor(z, z.total(), a.stride_c, odd, compliance), rx = tensor(z, z.n, a.stride_rx, odd, right_side),
                  rl = tensor(z, z.total(), a.stride_rl, odd, right_side);
    a.c = c.get(), a.rx = rx.get(), a.rl = rl.get();
    Block<double> ux = unwritten(z.batch * z.n), ul = unwritten(z.batch * z.total());
    Block<uint8_t> bad = flags_of(z.batch);
    a.ux = ux.get(), a.ul = ul.get(), a.bad = bad.get();
    require(il_linear(&a, int(among(0, 1))) == 0, "il_linear returned an unknown flag");
    for (auto *output : {&ux, &ul}) require_written(*output, "il_linear left an output unwritten");
    for (int64_t b = 0; b < z.batch; ++b) require(bad[b] <= 1, "a flag is neither 0 nor 1");
}

}  // namespace

int main(int count, char **arguments) {
    require(count == 3, "usage: native_driver CASES SEED");
    const int64_t cases = std::atoll(arguments[1]);
    generator.seed(uint64_t(std::atoll(arguments[2])));
    for (int64_t i = 0; i < cases; ++i) chance(65) ? solve_case() : linear_case();
    std::printf("%lld cases\n", static_cast<long long>(cases));
}
