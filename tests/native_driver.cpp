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
    static const double numbers[] = {0.0,    -0.0,   5e-324, -1e-310, 1e-200, 1e200,  -1e300, 1.7e308, -1.7e308,
                                     INF,    -INF,   std::numeric_limits<double>::quiet_NaN(), 1.0,  1e-8, 1e8};
    return numbers[among(0, int64_t(sizeof numbers / sizeof *numbers) - 1)];
}

struct Sizes {
    int64_t batch, n, m, p, upper, lower;
    int64_t k() const { return m + p; }
    int64_t total() const { return m + p + n * (upper + lower); }
};

Sizes random_sizes() {
    const int64_t n = chance(20) ? among(1, 4) : among(1, 40);
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
        if (chance(5)) P[base] -= 3.0;
        if (chance(odd)) P[base + among(0, n * n - 1)] = odd_number();
    }
    return P;
}

void solve_case() {
    const Sizes z = random_sizes();
    const int odd = chance(30) ? 10 : 0;
    SolveArguments a{};
    a.batch = z.batch, a.n = z.n, a.m = z.m, a.p = z.p, a.upper = z.upper, a.lower = z.lower;
    a.max_iter = chance(70) ? 30 : among(1, 3), a.threads = among(1, 3), a.eps_abs = 1e-9, a.eps_rel = 1e-9;
    const auto any_number = [](int64_t) { return normal(); };
    const auto right_side = [&](int64_t i) {
        const bool equality = i >= z.m && i < z.k();
        return equality ? normal() : chance(15) ? INF : std::fabs(normal()) + (chance(90) ? 0.5 : -1.0);
    };
    Block<double> P = curvature(z, a.stride_P, odd), q = tensor(z, z.n, a.stride_q, odd, any_number),
                  C = tensor(z, z.k() * z.n, a.stride_C, odd, any_number), d = tensor(z, z.total(), a.stride_d, odd, right_side),
                  warm_x = tensor(z, z.n, a.stride_x, odd, any_number), warm_lam = tensor(z, z.total(), a.stride_lam, odd, any_number);
    a.P = P.get(), a.q = q.get(), a.C = C.get(), a.d = d.get();
    if (chance(40)) a.warm_x = warm_x.get(), a.warm_lam = warm_lam.get();
    Block<double> x = unwritten(z.batch * z.n), lam = unwritten(z.batch * z.total()), s = unwritten(z.batch * z.total());
    Block<double> primal = unwritten(z.batch), dual = unwritten(z.batch), gap = unwritten(z.batch);
    Block<uint8_t> active(z.batch * z.total()), touching(z.batch * z.total());
    Block<int64_t> status(z.batch), iterations(z.batch);
    for (int64_t i = 0; i < active.size; ++i) active[i] = touching[i] = 77;
    for (int64_t b = 0; b < z.batch; ++b) status[b] = iterations[b] = -77;
    a.x = x.get(), a.lam = lam.get(), a.s = s.get(), a.primal = primal.get(), a.dual = dual.get(), a.gap = gap.get();
    a.active = active.get(), a.touching = touching.get(), a.status = status.get(), a.iterations = iterations.get();
    const int flags = il_solve(&a, int(among(0, 1)));
    require(flags == 0 || flags == 1, "il_solve returned an unknown flag");
    for (auto *output : {&x, &lam, &s, &primal, &dual, &gap}) require_written(*output, "il_solve left an output unwritten");
    for (int64_t i = 0; i < active.size; ++i) {
        require(active[i] <= 1 && touching[i] <= 1, "a flag is neither 0 nor 1");
        require(touching[i] >= active[i], "an active row does not touch");
    }
    for (int64_t b = 0; b < z.batch; ++b) {
        require(status[b] >= SOLVED && status[b] <= INVALID_INPUT, "an unknown status");
        require(iterations[b] >= 0 && iterations[b] <= a.max_iter + 9, "more factorisations than allowed");
        if (status[b] != SOLVED) continue;
        require(finite(primal[b]) && finite(dual[b]) && finite(gap[b]), "a solved element without finite residuals");
        for (int64_t j = 0; j < z.n; ++j) require(finite(x[b * z.n + j]), "a solved element that is not finite");
    }
}

void linear_case() {
    const Sizes z = random_sizes();
    const int odd = chance(30) ? 10 : 0;
    LinearArguments a{};
    a.batch = z.batch, a.n = z.n, a.m = z.m, a.p = z.p, a.upper = z.upper, a.lower = z.lower, a.threads = among(1, 3);
    const bool zero = chance(10);
    const auto any_number = [](int64_t) { return normal(); };
    const auto right_side = [&](int64_t) { return zero ? 0.0 : normal(); };
    const auto compliance = [](int64_t) { return chance(60) ? INF : chance(50) ? 0.0 : std::fabs(normal()); };
    Block<double> P = curvature(z, a.stride_P, odd), C = tensor(z, z.k() * z.n, a.stride_C, odd, any_number),
                  c = tensor(z, z.total(), a.stride_c, odd, compliance), rx = tensor(z, z.n, a.stride_rx, odd, right_side),
                  rl = tensor(z, z.total(), a.stride_rl, odd, right_side);
    a.P = P.get(), a.C = C.get(), a.c = c.get(), a.rx = rx.get(), a.rl = rl.get();
    Block<double> ux = unwritten(z.batch * z.n), ul = unwritten(z.batch * z.total());
    Block<uint8_t> bad(z.batch);
    for (int64_t b = 0; b < z.batch; ++b) bad[b] = 77;
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
