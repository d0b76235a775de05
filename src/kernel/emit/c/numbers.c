/* ============================== Arithmetic ============================== */

/* One operation and one rounding each: the volatile temporary keeps compilers from fusing, reassociating and keeping
   excess precision. `#pragma STDC FP_CONTRACT OFF` is not used: some compilers ignore it. */
static float sc_add(float a, float b) { volatile float r = a + b; return r; }
static float sc_sub(float a, float b) { volatile float r = a - b; return r; }
static float sc_mul(float a, float b) { volatile float r = a * b; return r; }
static float sc_div(float a, float b) { volatile float r = a / b; return r; }
static double sc_add64(double a, double b) { volatile double r = a + b; return r; }
static double sc_sub64(double a, double b) { volatile double r = a - b; return r; }
static double sc_mul64(double a, double b) { volatile double r = a * b; return r; }
static double sc_div64(double a, double b) { volatile double r = a / b; return r; }
static float sc_narrow(double a) { volatile float r = (float)a; return r; }

static uint32_t sc_bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static float sc_from_bits(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
static uint64_t sc_bits_of64(double x) { uint64_t u; memcpy(&u, &x, 8); return u; }
static double sc_from_bits64(uint64_t u) { double x; memcpy(&x, &u, 8); return x; }

/* Classes of values by their bits: comparisons of NaNs are what careless compiler flags break first. */
static int sc_is_nan(float x) { return (sc_bits_of(x) & 0x7FFFFFFFu) > 0x7F800000u; }
static int sc_is_finite(float x) { return (sc_bits_of(x) & 0x7F800000u) != 0x7F800000u; }
static int sc_is_nan64(double x) { return (sc_bits_of64(x) << 1) > ((uint64_t)0x7FF << 53); }
static int sc_is_finite64(double x) { return ((sc_bits_of64(x) >> 52) & 0x7FF) != 0x7FF; }

static float sc_abs(float x) { return sc_from_bits(sc_bits_of(x) & 0x7FFFFFFFu); }
static double sc_abs64(double x) { return sc_from_bits64(sc_bits_of64(x) << 1 >> 1); }
static float sc_max(float a, float b) { return a > b ? a : b; }
static float sc_min(float a, float b) { return a < b ? a : b; }
static float sc_clamp(float x, float limit) { return x > limit ? limit : x < -limit ? -limit : x; }

/* 2^e in binary64 for a normal result. */
static double sc_pow2(int e) { return sc_from_bits64((uint64_t)(e + 1023) << 52); }

/* m >> shift, rounded to nearest, ties to even. */
static uint64_t sc_shift_rne(uint64_t m, unsigned shift) {
    uint64_t q, rest, half;
    if (shift == 0) return m;
    if (shift > 63) return shift == 64 && m > ((uint64_t)1 << 63);
    q = m >> shift;
    rest = m & (((uint64_t)1 << shift) - 1);
    half = (uint64_t)1 << (shift - 1);
    return q + (rest > half || (rest == half && (q & 1)));
}

/* The binary32 value nearest to (-1)^negative * (m + tail) * 2^e, 0 <= tail < 1, where `sticky` says whether tail is not
   zero. Integer arithmetic only. */
static float sc_make_f32(int negative, uint64_t m, int sticky, int e) {
    uint32_t sign = negative ? 0x80000000u : 0, r;
    int top, last, shift;
    if (m == 0) return sc_from_bits(sign);
    for (top = 63; !(m >> top & 1); top--) {}
    /* Room for the sticky bit below everything that rounding looks at. */
    if (top > 60) {
        sticky |= (m & 7) != 0;
        m >>= 3;
        e += 3;
        top -= 3;
    } else if (top < 40) {
        m <<= 20;
        e -= 20;
        top += 20;
    }
    m |= sticky ? 1u : 0u;
    last = top + e - 23;
    if (last < -149) last = -149;
    shift = last - e;
    if (shift > 63) return sc_from_bits(sign);
    r = (uint32_t)(shift >= 0 ? sc_shift_rne(m, (unsigned)shift) : m << -shift);
    if (last + 149 > 253) return sc_from_bits(sign | 0x7F800000u);
    r += (uint32_t)(last + 149) << 23;
    return sc_from_bits(sign | (r > 0x7F800000u ? 0x7F800000u : r));
}

/* The correctly rounded square root, digit by digit. */
static double sc_sqrt64(double x) {
    uint64_t bits = sc_bits_of64(x), m, root = 0, rest = 0;
    int e = (int)(bits >> 52 & 0x7FF), i;
    if (x == 0.0 || sc_is_nan64(x)) return x;
    if (bits >> 63) return sc_from_bits64((uint64_t)0x7FF8 << 48);
    if (e == 0x7FF) return x;
    m = bits & (((uint64_t)1 << 52) - 1);
    if (e == 0) {
        e = 1;
        while (!(m >> 52)) { m <<= 1; e--; }
    } else {
        m |= (uint64_t)1 << 52;
    }
    /* x = m * 2^(e - 1075); an even exponent, then 54 bits of root out of 108 bits of radicand. */
    if ((e - 1075) % 2 != 0) { m <<= 1; e--; }
    for (i = 53; i >= 0; i--) {
        unsigned pair = (unsigned)(i >= 27 ? m >> (2 * (i - 27)) & 3 : 0);
        uint64_t trial = root << 2 | 1;
        rest = rest << 2 | pair;
        root <<= 1;
        if (rest >= trial) { rest -= trial; root |= 1; }
    }
    /* root = floor(sqrt(m * 2^54)) has 54 bits, one more than fit. An odd root is never exactly halfway: its square is odd,
       and m * 2^54 is not. */
    root = (root >> 1) + (root & 1);
    e = (e - 1075 - 54) / 2 + 1;
    return sc_mul64(sc_mul64((double)root, sc_pow2(e / 2)), sc_pow2(e - e / 2));
}

/* The correctly rounded binary32 square root: binary64 has more than twice its digits. */
static float sc_sqrt(float x) { return sc_narrow(sc_sqrt64(x)); }

/* a * b + c with one rounding. The product is exact in binary64; the sum is made odd where it is inexact, so that the
   second rounding cannot meet a false tie. */
static float sc_fma(float a, float b, float c) {
    double p = sc_mul64(a, b), s = sc_add64(p, c), t, error;
    uint64_t bits;
    if (!sc_is_finite64(s)) return sc_narrow(s);
    t = sc_sub64(s, p);
    error = sc_add64(sc_sub64(p, sc_sub64(s, t)), sc_sub64(c, t));
    bits = sc_bits_of64(s);
    if (error != 0.0 && !(bits & 1)) {
        /* Towards the exact sum: away from zero when the error has the sign of s. s is not 0 here. */
        bits += (error > 0.0) == (s > 0.0) ? (uint64_t)1 : ~(uint64_t)0;
    }
    return sc_narrow(sc_from_bits64(bits));
}

/* ============================== Exact sums ============================== */

/* A sum in fixed point: limbs of 32 bits with the carries deferred, unit 2^SC_SUM_UNIT. Holds sums of up to 2^30
   products of two binary32 values. */
enum { SC_SUM_UNIT = -320, SC_SUM_LIMBS = 20 };

typedef struct {
    int64_t limb[SC_SUM_LIMBS];
    int nan, inf, negative_inf;
} sc_sum;

static void sc_sum_clear(sc_sum *s) { memset(s, 0, sizeof *s); }

/* Adds (-1)^negative * m * 2^e, m < 2^64. */
static void sc_sum_add(sc_sum *s, int negative, uint64_t m, int e) {
    unsigned at, i, shift;
    uint64_t part[3];
    /* Binary32 products go down to 2^-298. */
    at = (unsigned)(e - SC_SUM_UNIT);
    i = at / 32;
    shift = at % 32;
    part[0] = (m & 0xFFFFFFFFu) << shift;
    part[1] = (m >> 32) << shift;
    part[2] = part[1] >> 32;
    part[1] = (part[1] & 0xFFFFFFFFu) + (part[0] >> 32);
    part[0] &= 0xFFFFFFFFu;
    for (at = 0; at < 3 && i + at < SC_SUM_LIMBS; at++) {
        if (negative) s->limb[i + at] -= (int64_t)part[at];
        else s->limb[i + at] += (int64_t)part[at];
    }
}

/* Adds the product of two values. */
static void sc_sum_product(sc_sum *s, float a, float b) {
    uint32_t x = sc_bits_of(a), y = sc_bits_of(b);
    uint32_t ex = x >> 23 & 0xFF, ey = y >> 23 & 0xFF, mx = x & 0x7FFFFFu, my = y & 0x7FFFFFu;
    int negative = (int)((x ^ y) >> 31);
    if (ex == 0xFF || ey == 0xFF) {
        if (sc_is_nan(a) || sc_is_nan(b) || (ex == 0 && mx == 0) || (ey == 0 && my == 0)) s->nan = 1;
        else if (negative) s->negative_inf = 1;
        else s->inf = 1;
        return;
    }
    if (ex) mx |= 0x800000u;
    else ex = 1;
    if (ey) my |= 0x800000u;
    else ey = 1;
    sc_sum_add(s, negative, (uint64_t)mx * my, (int)ex + (int)ey - 300);
}

/* The sum rounded once to binary32. A sum of nothing, and an exact 0, is +0. */
static float sc_sum_f32(const sc_sum *s) {
    uint32_t limb[SC_SUM_LIMBS];
    int64_t carry = 0;
    int i, negative, sticky = 0;
    uint64_t top;
    if (s->nan || (s->inf && s->negative_inf)) return sc_from_bits(0x7FC00000u);
    if (s->inf || s->negative_inf) return sc_from_bits(s->inf ? 0x7F800000u : 0xFF800000u);
    for (i = 0; i < SC_SUM_LIMBS; i++) {
        int64_t v = s->limb[i] + carry;
        limb[i] = (uint32_t)((uint64_t)v & 0xFFFFFFFFu);
        carry = (v - (int64_t)limb[i]) / 4294967296;
    }
    negative = carry < 0;
    if (negative) {
        uint64_t borrow = 1;
        for (i = 0; i < SC_SUM_LIMBS; i++) {
            borrow += (uint32_t)~limb[i];
            limb[i] = (uint32_t)(borrow & 0xFFFFFFFFu);
            borrow >>= 32;
        }
    }
    for (i = SC_SUM_LIMBS - 1; i > 0 && !limb[i]; i--) {}
    /* Two limbs hold at least 33 bits; everything below them only decides ties. */
    top = (uint64_t)limb[i] << 32 | (i > 0 ? limb[i - 1] : 0);
    {
        int below = i - 2;
        for (; below >= 0; below--) sticky |= limb[below] != 0;
    }
    return sc_make_f32(negative, top, sticky, SC_SUM_UNIT + 32 * (i - 1));
}

