/* ============================== Self-test ============================== */

/* Names what of this build or processor state would change results, NULL if nothing does. Operands are volatile, so that the
   operations happen at run time. */
static const char *sc_self_test(void) {
    volatile uint32_t bits;
    volatile float a, b, c;
    volatile double x, y;
    /* Numerators, denominators and quotients; the product with the rounded reciprocal differs. */
    static const uint32_t QUOTIENTS[3][3] = {
        {0x41BD2DFFu, 0x42BD29E2u, 0x3E8002C9u}, {0x42B47B8Eu, 0x4080E8B9u, 0x41B335BAu}, {0x41B38BF6u, 0x422B287Du, 0x3F0645FBu}};
    size_t i;
#if defined(__FAST_MATH__)
    return "built with fast-math: build without -ffast-math and -Ofast";
#elif defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0
    return "built with -ffinite-math-only: build without it";
#else
    if (sizeof(float) != 4 || sizeof(double) != 8 || sc_bits_of(-1.5f) != 0xBFC00000u ||
        sc_bits_of64(-1.5) != UINT64_C(0xBFF8000000000000))
        return "float and double are not IEEE binary32 and binary64";

    /* (1 + 2^-13)(1 - 2^-13) - 1 is -2^-26 fused, and 0 with a rounding of the product. */
    bits = 0x3F800400u;
    a = sc_from_bits(bits);
    bits = 0x3F7FF800u;
    b = sc_from_bits(bits);
    c = -1.0f;
    if (sc_add(sc_mul(a, b), c) != 0.0f) return "products and sums are fused: build with -ffp-contract=off";
    /* (1 + 2^-27)(1 - 2^-27) - 1 likewise. */
    x = sc_from_bits64(UINT64_C(0x3FF0000002000000));
    y = sc_from_bits64(UINT64_C(0x3FEFFFFFFC000000));
    if (sc_add64(sc_mul64(x, y), c) != 0.0) return "products and sums are fused: build with -ffp-contract=off";

    /* 1 + 2^-53 + 2^-78 is above the middle; a wider register loses the last term and then meets a tie. */
    x = 1.0;
    y = sc_from_bits64(UINT64_C(0x3CA0000008000000));
    if (sc_bits_of64(sc_add64(x, y)) != UINT64_C(0x3FF0000000000001))
        return "binary64 is computed in wider registers (x87): build with -mfpmath=sse or for a 64-bit target";

    bits = 0x00800000u;
    a = sc_from_bits(bits);
    b = 0.5f;
    if (sc_bits_of(sc_mul(a, b)) != 0x00400000u) return "subnormal results are flushed to zero";
    bits = 1;
    a = sc_from_bits(bits);
    b = 8388608.0f;
    if (sc_bits_of(sc_mul(a, b)) != 0x00800000u || sc_bits_of(sc_add(a, a)) != 2) return "subnormal operands are treated as zero";
    x = sc_from_bits64(1);
    y = 2.0;
    if (sc_bits_of64(sc_mul64(x, y)) != 2) return "subnormal operands are treated as zero";

    /* Ties to even, and the same on both sides of 0. */
    a = 1.0f;
    b = 5.9604644775390625e-8f; /* 2^-24 */
    c = 1.00000011920928955078125f;
    if (sc_bits_of(sc_add(a, b)) != 0x3F800000u || sc_bits_of(sc_add(c, b)) != 0x3F800002u ||
        sc_bits_of(sc_sub(-a, b)) != 0xBF800000u || sc_bits_of(sc_sub(-c, b)) != 0xBF800002u)
        return "the rounding mode is not to nearest, ties to even";
    x = 1.00000017881393432617187500; /* 1 + 1.5 * 2^-23, a tie of binary32 */
    if (sc_bits_of(sc_narrow(x)) != 0x3F800002u) return "binary64 is not rounded to binary32 to nearest even";

    for (i = 0; i < 3; i++) {
        a = sc_from_bits(QUOTIENTS[i][0]);
        b = sc_from_bits(QUOTIENTS[i][1]);
        if (sc_bits_of(sc_div(a, b)) != QUOTIENTS[i][2]) return "divisions are not correctly rounded";
    }
    bits = 0x7FC00000u;
    a = sc_from_bits(bits);
    b = 0.0f;
    if (a > b || a < b || a == a || !sc_is_nan(sc_add(a, b))) return "NaNs are not compared as IEEE has it";
    a = 1e-4f;
    if (sc_bits_of(a) != 0x38D1B717u) return "the compiler does not round constants to nearest";

    /* The functions that stand in for a mathematics library. */
    a = 1.0f;
    b = 2.0f;
    x = 2.0;
    if (sc_bits_of(sc_exp(a)) != 0x402DF854u || sc_bits_of(sc_log1p(a)) != 0x3F317218u || sc_bits_of(sc_sqrt(b)) != 0x3FB504F3u ||
        sc_bits_of64(sc_sqrt64(x)) != UINT64_C(0x3FF6A09E667F3BCD))
        return "exp, log1p or sqrt give other bits than they must";
    return NULL;
#endif
}

