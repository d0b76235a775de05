/* ============================== exp and log1p ============================== */

/* Correctly rounded binary32 exp and log1p, and an exp in binary64, without a mathematics library. Every operation is one
   binary64 rounding in the order written; results were checked for all 2^32 arguments. A pair hi + lo holds the value
   within about 2^-58; the last bit of hi is made odd where lo is not 0, so that the conversion to binary32 rounds the pair. */

/* 2^(j/32) in two parts, as bits of binary64. */
static const uint64_t SC_EXP2_32[32][2] = {
    {UINT64_C(0x3FF0000000000000), UINT64_C(0x0000000000000000)},
    {UINT64_C(0x3FF059B0D3158574), UINT64_C(0x3C8D73E2A475B465)},
    {UINT64_C(0x3FF0B5586CF9890F), UINT64_C(0x3C98A62E4ADC610B)},
    {UINT64_C(0x3FF11301D0125B51), UINT64_C(0xBC96C51039449B3A)},
    {UINT64_C(0x3FF172B83C7D517B), UINT64_C(0xBC819041B9D78A76)},
    {UINT64_C(0x3FF1D4873168B9AA), UINT64_C(0x3C9E016E00A2643C)},
    {UINT64_C(0x3FF2387A6E756238), UINT64_C(0x3C99B07EB6C70573)},
    {UINT64_C(0x3FF29E9DF51FDEE1), UINT64_C(0x3C8612E8AFAD1255)},
    {UINT64_C(0x3FF306FE0A31B715), UINT64_C(0x3C86F46AD23182E4)},
    {UINT64_C(0x3FF371A7373AA9CB), UINT64_C(0xBC963AEABF42EAE2)},
    {UINT64_C(0x3FF3DEA64C123422), UINT64_C(0x3C8ADA0911F09EBC)},
    {UINT64_C(0x3FF44E086061892D), UINT64_C(0x3C489B7A04EF80D0)},
    {UINT64_C(0x3FF4BFDAD5362A27), UINT64_C(0x3C7D4397AFEC42E2)},
    {UINT64_C(0x3FF5342B569D4F82), UINT64_C(0xBC807ABE1DB13CAD)},
    {UINT64_C(0x3FF5AB07DD485429), UINT64_C(0x3C96324C054647AD)},
    {UINT64_C(0x3FF6247EB03A5585), UINT64_C(0xBC9383C17E40B497)},
    {UINT64_C(0x3FF6A09E667F3BCD), UINT64_C(0xBC9BDD3413B26456)},
    {UINT64_C(0x3FF71F75E8EC5F74), UINT64_C(0xBC816E4786887A99)},
    {UINT64_C(0x3FF7A11473EB0187), UINT64_C(0xBC841577EE04992F)},
    {UINT64_C(0x3FF82589994CCE13), UINT64_C(0xBC9D4C1DD41532D8)},
    {UINT64_C(0x3FF8ACE5422AA0DB), UINT64_C(0x3C96E9F156864B27)},
    {UINT64_C(0x3FF93737B0CDC5E5), UINT64_C(0xBC675FC781B57EBC)},
    {UINT64_C(0x3FF9C49182A3F090), UINT64_C(0x3C7C7C46B071F2BE)},
    {UINT64_C(0x3FFA5503B23E255D), UINT64_C(0xBC9D2F6EDB8D41E1)},
    {UINT64_C(0x3FFAE89F995AD3AD), UINT64_C(0x3C97A1CD345DCC81)},
    {UINT64_C(0x3FFB7F76F2FB5E47), UINT64_C(0xBC75584F7E54AC3B)},
    {UINT64_C(0x3FFC199BDD85529C), UINT64_C(0x3C811065895048DD)},
    {UINT64_C(0x3FFCB720DCEF9069), UINT64_C(0x3C7503CBD1E949DB)},
    {UINT64_C(0x3FFD5818DCFBA487), UINT64_C(0x3C82ED02D75B3707)},
    {UINT64_C(0x3FFDFC97337B9B5F), UINT64_C(0xBC91A5CD4F184B5C)},
    {UINT64_C(0x3FFEA4AFA2A490DA), UINT64_C(0xBC9E9C23179C2893)},
    {UINT64_C(0x3FFF50765B6E4540), UINT64_C(0x3C99D3E12DD8A18B)},
};

/* ln(1 + (2j + 1) / 128) in two parts. */
static const uint64_t SC_LOG_C[64][2] = {
    {UINT64_C(0x3F7FE02A6B100000), UINT64_C(0x3D19E23F0DDA40E4)},
    {UINT64_C(0x3F97B91B07D60000), UINT64_C(0xBD33B955B602ACE4)},
    {UINT64_C(0x3FA39E87B9FE8000), UINT64_C(0x3D3EAFD480AD9015)},
    {UINT64_C(0x3FAB42DD71198000), UINT64_C(0xBD1C827AE5D6704C)},
    {UINT64_C(0x3FB16536EEA38000), UINT64_C(0xBD147C5E768FA309)},
    {UINT64_C(0x3FB51B073F060000), UINT64_C(0x3D383F69278E686A)},
    {UINT64_C(0x3FB8C345D6318000), UINT64_C(0x3D3B20F5ACB42A66)},
    {UINT64_C(0x3FBC5E548F5BC000), UINT64_C(0x3D1D0C57585FBE06)},
    {UINT64_C(0x3FBFEC9131DC0000), UINT64_C(0xBD354555D1AE6607)},
    {UINT64_C(0x3FC1B72AD52F6000), UINT64_C(0x3D2E80A41811A396)},
    {UINT64_C(0x3FC371FC201E8000), UINT64_C(0x3D3EE8779B2D8ABC)},
    {UINT64_C(0x3FC526E5E3A1C000), UINT64_C(0xBD3790BA37FC5238)},
    {UINT64_C(0x3FC6D60FE719E000), UINT64_C(0xBD3BC6E557134767)},
    {UINT64_C(0x3FC87FA06520C000), UINT64_C(0x3D322120401202FC)},
    {UINT64_C(0x3FCA23BC1FE2C000), UINT64_C(0xBD3539CD91DC9F0B)},
    {UINT64_C(0x3FCBC286742D8000), UINT64_C(0x3D39AC53F39D121C)},
    {UINT64_C(0x3FCD5C216B4FC000), UINT64_C(0xBD21BA91BBCA681B)},
    {UINT64_C(0x3FCEF0ADCBDC6000), UINT64_C(0xBD2B26B79C86AF24)},
    {UINT64_C(0x3FD0402594B4D000), UINT64_C(0x3CF036B89EF42D7F)},
    {UINT64_C(0x3FD1058BF9AE5000), UINT64_C(0xBD34AB9D817D52CD)},
    {UINT64_C(0x3FD1C898C169A000), UINT64_C(0xBD381410E5C62AFF)},
    {UINT64_C(0x3FD2895A13DE8000), UINT64_C(0x3D3A8D7AD24C13F0)},
    {UINT64_C(0x3FD347DD9A988000), UINT64_C(0xBD25594DD4C58092)},
    {UINT64_C(0x3FD404308686A000), UINT64_C(0x3D3F8EF43049F7D3)},
    {UINT64_C(0x3FD4BE5F95778000), UINT64_C(0xBD3D7C92CD9AD824)},
    {UINT64_C(0x3FD5767717456000), UINT64_C(0xBD364EAD9524D7CA)},
    {UINT64_C(0x3FD62C82F2B9C000), UINT64_C(0x3D3E54BDBD7C8A98)},
    {UINT64_C(0x3FD6E08EAA2BA000), UINT64_C(0x3D1E38C139318D71)},
    {UINT64_C(0x3FD792A55FDD4000), UINT64_C(0x3D3E89F057691FEA)},
    {UINT64_C(0x3FD842D1DA1E9000), UINT64_C(0xBD33A2DB13AE687C)},
    {UINT64_C(0x3FD8F11E87366000), UINT64_C(0x3D263BF0BB4EAB4C)},
    {UINT64_C(0x3FD99D958117E000), UINT64_C(0x3D01597525DD88F0)},
    {UINT64_C(0x3FDA484090E5C000), UINT64_C(0xBD33D7500D6523C5)},
    {UINT64_C(0x3FDAF12932478000), UINT64_C(0xBD3E53BB31EED7A9)},
    {UINT64_C(0x3FDB985896931000), UINT64_C(0x3D0F6B31F629F11E)},
    {UINT64_C(0x3FDC3DD7A7CDB000), UINT64_C(0xBD25946261F5A42B)},
    {UINT64_C(0x3FDCE1AF0B85F000), UINT64_C(0x3D2F5BDBE95E5568)},
    {UINT64_C(0x3FDD83E7258A3000), UINT64_C(0xBD0835F5D48BA26D)},
    {UINT64_C(0x3FDE24881A7C7000), UINT64_C(0xBD2ECF1A1385D356)},
    {UINT64_C(0x3FDEC399D2469000), UINT64_C(0xBD29FF45188D6065)},
    {UINT64_C(0x3FDF6123FA703000), UINT64_C(0xBD3D4E7AEA4F0D25)},
    {UINT64_C(0x3FDFFD2E0857F000), UINT64_C(0x3D3261565F40D932)},
    {UINT64_C(0x3FE04BDF9DA92800), UINT64_C(0xBD22D9A033EFF74E)},
    {UINT64_C(0x3FE0986F4F573800), UINT64_C(0xBD36FA37012B5806)},
    {UINT64_C(0x3FE0E44985D1D000), UINT64_C(0xBD3BA048A8D10B4B)},
    {UINT64_C(0x3FE12F719593F000), UINT64_C(0xBD00EB3FB7398E0C)},
    {UINT64_C(0x3FE179EABBD89800), UINT64_C(0x3D2A0BFC60E6FA08)},
    {UINT64_C(0x3FE1C3B81F714000), UINT64_C(0xBD3EDA1B58389902)},
    {UINT64_C(0x3FE20CDCD192A800), UINT64_C(0x3D3B6C9A81E87BAE)},
    {UINT64_C(0x3FE2555BCE98F800), UINT64_C(0xBCFA61FDE292977E)},
    {UINT64_C(0x3FE29D37FEC2B000), UINT64_C(0x3D11590B9AD974BA)},
    {UINT64_C(0x3FE2E47436E40000), UINT64_C(0x3D334202A10C3491)},
    {UINT64_C(0x3FE32B1339122000), UINT64_C(0xBD34766FD54A4C27)},
    {UINT64_C(0x3FE37117B5474800), UINT64_C(0xBD028E88BF6DEEC9)},
    {UINT64_C(0x3FE3B6844A000000), UINT64_C(0xBD3EEA838909F3D3)},
    {UINT64_C(0x3FE3FB5B84D17000), UINT64_C(0xBD17B4962C55F46B)},
    {UINT64_C(0x3FE43F9FE2F9D000), UINT64_C(0xBD298858D84649F1)},
    {UINT64_C(0x3FE48353D1EA8800), UINT64_C(0x3D1BEE7ABD176604)},
    {UINT64_C(0x3FE4C679AFCCF000), UINT64_C(0xBD2C64E971322CE8)},
    {UINT64_C(0x3FE50913CC016800), UINT64_C(0x3D0AD2F2CE96C2D6)},
    {UINT64_C(0x3FE54B2467999800), UINT64_C(0xBD3B42B755EBA5E1)},
    {UINT64_C(0x3FE58CADB5CD7800), UINT64_C(0x3D2893092F25D931)},
    {UINT64_C(0x3FE5CDB1DC6C1800), UINT64_C(0xBD136E612387451F)},
    {UINT64_C(0x3FE60E32F4478800), UINT64_C(0x3D1B194F912B416A)},
};

/* Steps up to the pair of e^d = (hi + lo) * 2^exponent. */
static void sc_exp_pair(double d, double *hi, double *lo, int *exponent) {
    const double to_integer = sc_from_bits64(UINT64_C(0x4338000000000000)); /* 1.5 * 2^52 */
    double t = sc_add64(sc_mul64(d, sc_from_bits64(UINT64_C(0x40471547652B82FE))), to_integer); /* 32 / ln 2 */
    int64_t low = (int64_t)(sc_bits_of64(t) & 0xFFFFFFFFu);
    int k = (int)(low >= 0x80000000 ? low - INT64_C(0x100000000) : low), j = (int)(low & 31);
    double kd = sc_sub64(t, to_integer);
    double r = sc_sub64(d, sc_mul64(kd, sc_from_bits64(UINT64_C(0x3F962E42FEFA4000)))); /* ln 2 / 32, upper part */
    double q, p, th, tl, y;
    r = sc_sub64(r, sc_mul64(kd, sc_from_bits64(UINT64_C(0xBCF8432A1B0E2634))));
    q = sc_add64(sc_div64(1.0, 720.0), sc_mul64(r, sc_div64(1.0, 5040.0)));
    q = sc_add64(sc_div64(1.0, 120.0), sc_mul64(r, q));
    q = sc_add64(sc_div64(1.0, 24.0), sc_mul64(r, q));
    q = sc_add64(sc_div64(1.0, 6.0), sc_mul64(r, q));
    q = sc_add64(0.5, sc_mul64(r, q));
    p = sc_add64(r, sc_mul64(sc_mul64(r, r), q));
    th = sc_from_bits64(SC_EXP2_32[j][0]);
    tl = sc_from_bits64(SC_EXP2_32[j][1]);
    y = sc_add64(tl, sc_mul64(th, p));
    *hi = sc_add64(th, y);
    *lo = sc_sub64(y, sc_sub64(*hi, th));
    *exponent = (k - j) / 32;
}

/* hi with the direction of lo folded into its last bit. */
static double sc_round_odd(double hi, double lo) {
    uint64_t bits = sc_bits_of64(hi);
    if (lo == 0.0 || (bits & 1)) return hi;
    return sc_from_bits64((lo > 0.0) == (hi > 0.0) ? bits + 1 : bits - 1);
}

/* x * 2^exponent for a normal result. */
static double sc_scale64(double x, int exponent) {
    return sc_from_bits64(sc_bits_of64(x) + ((uint64_t)(int64_t)exponent << 52));
}

/* e^x, correctly rounded. */
static float sc_exp(float x) {
    double hi, lo;
    int exponent;
    if (sc_is_nan(x)) return sc_from_bits(0x7FC00000u);
    if (x > sc_from_bits(0x42B17217u)) return sc_from_bits(0x7F800000u);
    if (x < sc_from_bits(0xC2CFF1B4u)) return 0.0f;
    sc_exp_pair(x, &hi, &lo, &exponent);
    return sc_narrow(sc_scale64(sc_round_odd(hi, lo), exponent));
}

/* e^x within one place of binary64; +0 below -707. */
static double sc_exp64(double x) {
    double hi, lo;
    int exponent;
    if (sc_is_nan64(x)) return x;
    if (x > 709.75) return sc_from_bits64((uint64_t)0x7FF << 52);
    if (x < -707.0) return 0.0;
    sc_exp_pair(x, &hi, &lo, &exponent);
    return sc_scale64(hi, exponent);
}

/* The polynomial of terms (-1)^(i - 1) / i * x^(i - first), i = first to last, from its innermost term. */
static double sc_series(double x, int first, int last) {
    double q = sc_div64(last % 2 ? 1.0 : -1.0, (double)last);
    int i;
    for (i = last - 1; i >= first; i--) q = sc_add64(sc_div64(i % 2 ? 1.0 : -1.0, (double)i), sc_mul64(x, q));
    return q;
}

/* ln(1 + x), correctly rounded. */
static float sc_log1p(float x) {
    double d = x, hi, lo, y;
    if (sc_is_nan(x) || x < -1.0f) return sc_from_bits(0x7FC00000u);
    if (x == -1.0f) return sc_from_bits(0xFF800000u);
    if (x == 0.0f || !sc_is_finite(x)) return x;
    if (d > -0.015625 && d < 0.015625) {
        y = sc_mul64(sc_mul64(d, d), sc_series(d, 2, 10));
        hi = sc_add64(d, y);
        lo = sc_sub64(y, sc_sub64(hi, d));
    } else {
        double u = sc_add64(1.0, d), c = d >= 1.0 ? sc_sub64(1.0, sc_sub64(u, d)) : 0.0;
        uint64_t bits = sc_bits_of64(u);
        double e = (double)((int)(bits >> 52) - 1023);
        double m = sc_from_bits64((bits & UINT64_C(0xFFFFFFFFFFFFF)) | UINT64_C(0x3FF0000000000000));
        int j = (int)(bits >> 46 & 63);
        double b = sc_add64(1.0, sc_div64((double)(2 * j + 1), 128.0));
        double z = sc_div64(sc_sub64(m, b), b);
        double p = sc_add64(z, sc_mul64(sc_mul64(z, z), sc_series(z, 2, 8)));
        /* ln 2 in two parts. */
        double s = sc_add64(sc_mul64(e, sc_from_bits64(UINT64_C(0x3FE62E42FEFA3800))), sc_from_bits64(SC_LOG_C[j][0]));
        double v;
        y = sc_add64(sc_mul64(e, sc_from_bits64(UINT64_C(0x3D2EF35793C76730))), sc_from_bits64(SC_LOG_C[j][1]));
        y = sc_add64(sc_add64(y, sc_div64(c, u)), p);
        hi = sc_add64(s, y);
        v = sc_sub64(hi, s);
        lo = sc_add64(sc_sub64(s, sc_sub64(hi, v)), sc_sub64(y, v));
    }
    return sc_narrow(sc_round_odd(hi, lo));
}

