/* ============================== Element formats ============================== */

/* Layout of a float of at most 16 bits. */
typedef struct {
    int exponent_bits, mantissa_bits, bias;
    uint32_t largest;  /* code of the largest finite value */
    uint32_t infinity; /* code of infinity, 0 where there is none */
} sc_layout;

static sc_layout sc_layout_of(sc_type t) {
    sc_layout f = {4, 3, 7, 0x7E, 0};
    switch (t) {
    case SC_E5M2: f.exponent_bits = 5; f.mantissa_bits = 2; f.bias = 15; f.largest = 0x7B; f.infinity = 0x7C; break;
    case SC_E4M3FNUZ: f.bias = 8; f.largest = 0x7F; break;
    case SC_E5M2FNUZ: f.exponent_bits = 5; f.mantissa_bits = 2; f.bias = 16; f.largest = 0x7F; break;
    case SC_E2M1: f.exponent_bits = 2; f.mantissa_bits = 1; f.bias = 1; f.largest = 7; break;
    case SC_F16:
        f.exponent_bits = 5; f.mantissa_bits = 10; f.bias = 15; f.largest = 0x7BFF; f.infinity = 0x7C00; break;
    case SC_BF16:
        f.exponent_bits = 8; f.mantissa_bits = 7; f.bias = 127; f.largest = 0x7F7F; f.infinity = 0x7F80; break;
    default: break;
    }
    return f;
}

/* The code of `x`, to nearest, ties to even. Beyond the largest value: that value if `saturate` or for E2M1, else
   infinity or NaN. */
static uint32_t sc_encode(sc_type t, float x, int saturate) {
    sc_layout f = sc_layout_of(t);
    uint32_t bits = sc_bits_of(x), a = bits & 0x7FFFFFFFu, m = a & 0x7FFFFFu, code;
    uint32_t sign = (bits >> 31) << (f.exponent_bits + f.mantissa_bits);
    int e = (int)(a >> 23), smallest = 1 - f.bias - f.mantissa_bits, last;
    int fnuz = t == SC_E4M3FNUZ || t == SC_E5M2FNUZ;
    if (a > 0x7F800000u) {
        if (fnuz) return 0x80;
        if (t == SC_BF16) return bits >> 16 | 0x40;
        if (t == SC_F16) return sign | 0x7E00 | (a >> 13 & 0x1FF);
        if (t == SC_E5M2) return sign | 0x7E;
        if (t == SC_E2M1) return 8 ^ sign;
        return sign | 0x7F;
    }
    if (e) m |= 0x800000u;
    else e = 1;
    /* x = m * 2^(e - 150); `last` is the exponent of the code's last place. */
    last = e - 127 - f.mantissa_bits;
    if (last < smallest) last = smallest;
    code = (uint32_t)sc_shift_rne(m, (unsigned)(last - (e - 150)));
    code += (uint32_t)(last - smallest) << f.mantissa_bits;
    if (code > f.largest) {
        if (saturate || t == SC_E2M1) code = f.largest;
        else if (fnuz) return 0x80;
        else code = f.infinity ? f.infinity : 0x7F;
    }
    return fnuz && code == 0 ? 0 : code | sign;
}

/* The value of a code, exact. NaNs are quiet and keep the sign of the code. */
static float sc_decode(sc_type t, uint32_t code) {
    sc_layout f = sc_layout_of(t);
    uint32_t sign, magnitude, m, e;
    if (t == SC_BF16) return sc_from_bits(code << 16);
    if (t == SC_E8M0) return sc_from_bits(code == 0xFF ? 0x7FC00000u : code ? code << 23 : 0x400000u);
    sign = code >> (f.exponent_bits + f.mantissa_bits) & 1;
    magnitude = code & ((1u << (f.exponent_bits + f.mantissa_bits)) - 1);
    sign <<= 31;
    if (t == SC_E4M3FNUZ || t == SC_E5M2FNUZ) {
        if (sign && !magnitude) return sc_from_bits(0xFFC00000u);
    } else if (f.infinity && magnitude >= f.infinity) {
        if (magnitude == f.infinity) return sc_from_bits(sign | 0x7F800000u);
        return sc_from_bits(sign | 0x7FC00000u | (t == SC_F16 ? (magnitude & 0x3FF) << 13 : 0));
    } else if (magnitude > f.largest) {
        return sc_from_bits(sign | 0x7FC00000u);
    }
    m = magnitude & ((1u << f.mantissa_bits) - 1);
    e = magnitude >> f.mantissa_bits;
    if (e) {
        e += (uint32_t)(127 - f.bias);
    } else {
        if (!m) return sc_from_bits(sign);
        e = (uint32_t)(128 - f.bias);
        while (!(m >> f.mantissa_bits)) { m <<= 1; e--; }
        m &= (1u << f.mantissa_bits) - 1;
    }
    return sc_from_bits(sign | e << 23 | m << (23 - f.mantissa_bits));
}

/* ---- elements of matrices ---- */

/* The stored bits of element (r, c). */
static uint64_t sc_raw(const sc_mat *m, size_t r, size_t c) {
    size_t i = r * m->ld + c;
    const unsigned char *p;
    unsigned bits = sc_bits(m->type), k;
    uint64_t v = 0;
    if (bits == 8) return m->data[i];
    if (bits == 4) return m->data[i / 2] >> (i % 2 * 4) & 15;
    p = m->data + i * (bits / 8);
    if (bits == 16) return (uint64_t)p[0] | (uint64_t)p[1] << 8;
    for (k = 0; k < bits / 8; k++) v |= (uint64_t)p[k] << (8 * k);
    return v;
}

static void sc_set_raw(const sc_mat *m, size_t r, size_t c, uint64_t v) {
    size_t i = r * m->ld + c;
    unsigned bits = sc_bits(m->type), k;
    if (bits == 4) {
        unsigned shift = (unsigned)(i % 2 * 4);
        m->data[i / 2] = (unsigned char)((m->data[i / 2] & ~(15u << shift)) | (unsigned)(v & 15) << shift);
        return;
    }
    for (k = 0; k < bits / 8; k++) m->data[i * (bits / 8) + k] = (unsigned char)(v >> (8 * k) & 0xFF);
}

/* The value of an integer element. */
static int64_t sc_int(const sc_mat *m, size_t r, size_t c) {
    uint64_t v = sc_raw(m, r, c);
    switch (m->type) {
    case SC_I4: return (int64_t)(v ^ 8) - 8;
    case SC_I8: return (int64_t)(v ^ 0x80) - 0x80;
    case SC_I16: return (int64_t)(v ^ 0x8000) - 0x8000;
    case SC_I32: return (int64_t)(v ^ 0x80000000u) - (int64_t)0x80000000u;
    default: break;
    }
    if (v >> 63) return -(int64_t)(~v) - 1;
    return (int64_t)v;
}

static int sc_is_integer(sc_type t) { return t >= SC_U4; }

/* An integer as binary32, rounded to nearest even. */
static float sc_f32_of_int(int64_t v) {
    uint64_t m = v < 0 ? (uint64_t)(-(v + 1)) + 1 : (uint64_t)v;
    return sc_make_f32(v < 0, m, 0, 0);
}

/* The value of element (r, c) as binary32: exact for every format but F64 and large integers. */
static float sc_get(const sc_mat *m, size_t r, size_t c) {
    if (m->type == SC_F32) return sc_from_bits((uint32_t)sc_raw(m, r, c));
    if (m->type == SC_F64) return sc_narrow(sc_from_bits64(sc_raw(m, r, c)));
    if (sc_is_integer(m->type)) return sc_f32_of_int(sc_int(m, r, c));
    return sc_decode(m->type, (uint32_t)sc_raw(m, r, c));
}

/* Element i in row-major order: scales and vectors come as [M], [M,1] or [1,M]. */
static float sc_get_flat(const sc_mat *m, size_t i) { return sc_get(m, i / m->cols, i % m->cols); }

/* Stores `x` rounded to the format of the matrix. A NaN is the positive quiet one: processors differ in the sign of NaNs
   that they make. */
static void sc_put(const sc_mat *m, size_t r, size_t c, float x) {
    uint32_t bits = sc_is_nan(x) ? 0x7FC00000u : sc_bits_of(x);
    if (m->type == SC_F32) sc_set_raw(m, r, c, bits);
    else if (m->type == SC_F64) sc_set_raw(m, r, c, sc_bits_of64((double)sc_from_bits(bits)));
    else sc_set_raw(m, r, c, sc_encode(m->type, sc_from_bits(bits), 0));
}

static void sc_put_flat(const sc_mat *m, size_t i, float x) { sc_put(m, i / m->cols, i % m->cols, x); }

static int sc_is_output_float(sc_type t) { return t == SC_F32 || t == SC_BF16 || t == SC_F16; }

static float sc_round_bf16(float x) { return sc_decode(SC_BF16, sc_encode(SC_BF16, x, 0)); }

