/* ============================== Key and value caches ============================== */

/* 20. x [T,576] to 656 bytes per token: 512 E4M3 | 4 binary32 scales, one per 128, powers of two | 64 BF16 as they are. */
int sc_kv_quant_v32(const sc_mat *x, const sc_mat *y) {
    size_t t, tile, i, k;
    if (!x || !y) return SC_MISSING;
    if (x->type != SC_BF16 || y->type != SC_U8) return SC_TYPE;
    if (x->cols != 576 || y->cols != 656 || x->rows != y->rows) return SC_SHAPE;
    for (t = 0; t < x->rows; t++) {
        for (tile = 0; tile < 4; tile++) {
            float amax = 0.0f, s;
            for (i = 0; i < 128; i++) amax = sc_max(amax, sc_abs(sc_get(x, t, tile * 128 + i)));
            s = sc_rule_scale(SC_KV_FP8, amax);
            for (i = 0; i < 128; i++)
                sc_set_raw(y, t, tile * 128 + i, sc_rule_code(SC_KV_FP8, sc_get(x, t, tile * 128 + i), s, amax));
            for (k = 0; k < 4; k++) sc_set_raw(y, t, 512 + tile * 4 + k, sc_bits_of(s) >> (8 * k) & 0xFF);
        }
        for (i = 0; i < 64; i++)
            for (k = 0; k < 2; k++) sc_set_raw(y, t, 528 + 2 * i + k, sc_raw(x, t, 512 + i) >> (8 * k) & 0xFF);
    }
    return SC_OK;
}

/* 20. x [blocks, P, 512] (rows block * P + token) to one row per block: P x (448 E4M3 | 64 BF16), then P x (7 E8M0, one per 64 |
   one 0), zeros to a multiple of 576. */
int sc_kv_quant_model1(const sc_mat *x, size_t tokens, const sc_mat *y) {
    size_t block, p, tile, i, k, width;
    if (!x || !y) return SC_MISSING;
    if (x->type != SC_BF16 || y->type != SC_U8) return SC_TYPE;
    width = sc_ceil_div(tokens * 584, 576) * 576;
    if (x->cols != 512 || x->rows != y->rows * tokens || y->cols != width) return SC_SHAPE;
    for (block = 0; block < y->rows; block++) {
        for (i = 0; i < width; i++) sc_set_raw(y, block, i, 0);
        for (p = 0; p < tokens; p++) {
            size_t row = block * tokens + p;
            for (tile = 0; tile < 7; tile++) {
                float amax = 0.0f, s;
                for (i = 0; i < 64; i++) amax = sc_max(amax, sc_abs(sc_get(x, row, tile * 64 + i)));
                s = sc_rule_scale(SC_KV_FP8, amax);
                for (i = 0; i < 64; i++)
                    sc_set_raw(y, block, p * 576 + tile * 64 + i, sc_rule_code(SC_KV_FP8, sc_get(x, row, tile * 64 + i), s, amax));
                sc_set_raw(y, block, tokens * 576 + p * 8 + tile, sc_bits_of(s) >> 23);
            }
            for (i = 0; i < 64; i++)
                for (k = 0; k < 2; k++)
                    sc_set_raw(y, block, p * 576 + 448 + 2 * i + k, sc_raw(x, row, 448 + i) >> (8 * k) & 0xFF);
        }
    }
    return SC_OK;
}

/* 20. x [T, heads, D] (rows t * heads + h) to INT8, one scale per head, or per channel of a head. The scales are given, or
   max(amax, 1e-4) / 127 over all tokens. */
int sc_kv_quant_int8(const sc_mat *x, size_t heads, const sc_mat *given, int per_channel, const sc_mat *codes,
                     const sc_mat *scale_out) {
    size_t tokens, t, h, d, unit, units;
    if (!x || !codes || (!given && !scale_out)) return SC_MISSING;
    if (!sc_is_output_float(x->type) || codes->type != SC_I8) return SC_TYPE;
    if (heads == 0 || x->rows % heads || codes->rows != x->rows || codes->cols != x->cols) return SC_SHAPE;
    tokens = x->rows / heads;
    units = per_channel ? heads * x->cols : heads;
    if ((given && sc_count(given) != units) || (scale_out && sc_count(scale_out) != units)) return SC_SHAPE;
    for (unit = 0; unit < units; unit++) {
        size_t first = per_channel ? unit % x->cols : 0, last = per_channel ? first + 1 : x->cols;
        float s;
        h = per_channel ? unit / x->cols : unit;
        if (given) {
            s = sc_get_flat(given, unit);
        } else {
            float amax = 0.0f;
            for (t = 0; t < tokens; t++)
                for (d = first; d < last; d++) amax = sc_max(amax, sc_abs(sc_get(x, t * heads + h, d)));
            s = sc_rule_scale(SC_KV_INT8, amax);
        }
        if (scale_out) sc_put_flat(scale_out, unit, s);
        for (t = 0; t < tokens; t++)
            for (d = first; d < last; d++)
                sc_set_raw(codes, t * heads + h, d, sc_rule_code(SC_KV_INT8, sc_get(x, t * heads + h, d), s, 0.0f));
    }
    return SC_OK;
}

/* ============================== Layouts ============================== */

/* 21. Four consecutive E8M0 codes of a row per 32-bit word, lowest byte first, zero padded. */
int sc_layout_ue8m0_pack(const sc_mat *x, const sc_mat *y) {
    size_t r, c, k;
    if (!x || !y) return SC_MISSING;
    if (sc_bits(x->type) != 8 || sc_bits(y->type) != 32) return SC_TYPE;
    if (x->rows != y->rows || y->cols != sc_ceil_div(x->cols, 4)) return SC_SHAPE;
    for (r = 0; r < y->rows; r++)
        for (c = 0; c < y->cols; c++) {
            uint64_t word = 0;
            for (k = 0; k < 4 && c * 4 + k < x->cols; k++) word |= sc_raw(x, r, c * 4 + k) << (8 * k);
            sc_set_raw(y, r, c, word);
        }
    return SC_OK;
}

int sc_layout_ue8m0_unpack(const sc_mat *x, const sc_mat *y) {
    size_t r, c;
    if (!x || !y) return SC_MISSING;
    if (sc_bits(x->type) != 32 || sc_bits(y->type) != 8) return SC_TYPE;
    if (x->rows != y->rows || x->cols != sc_ceil_div(y->cols, 4)) return SC_SHAPE;
    for (r = 0; r < y->rows; r++)
        for (c = 0; c < y->cols; c++) sc_set_raw(y, r, c, sc_raw(x, r, c / 4) >> (c % 4 * 8) & 0xFF);
    return SC_OK;
}

/* 21. The transpose, rows padded with zeros to a multiple of four. */
int sc_layout_ue8m0_tma(const sc_mat *x, const sc_mat *y) {
    size_t r, c;
    if (!x || !y) return SC_MISSING;
    if (sc_bits(x->type) != 32 || sc_bits(y->type) != 32) return SC_TYPE;
    if (y->rows != x->cols || y->cols != sc_ceil_div(x->rows, 4) * 4) return SC_SHAPE;
    for (r = 0; r < y->rows; r++)
        for (c = 0; c < y->cols; c++) sc_set_raw(y, r, c, c < x->rows ? sc_raw(x, c, r) : 0);
    return SC_OK;
}

/* 21. FRACTAL_NZ: x [M,N] to tiles of 16 x n0, n0 = 32 bytes; rows of tiled: ((column tile * row tiles + row tile) * 16 + row). */
int sc_layout_nz(const sc_mat *x, const sc_mat *tiled, int inverse) {
    size_t n0, row_tiles, r, c;
    if (!x || !tiled) return SC_MISSING;
    if (x->type != tiled->type || sc_bits(x->type) < 8) return SC_TYPE;
    n0 = 256 / sc_bits(x->type);
    row_tiles = sc_ceil_div(x->rows, 16);
    if (tiled->cols != n0 || tiled->rows != sc_ceil_div(x->cols, n0) * row_tiles * 16) return SC_SHAPE;
    for (r = 0; r < row_tiles * 16; r++)
        for (c = 0; c < sc_ceil_div(x->cols, n0) * n0; c++) {
            size_t row = (c / n0 * row_tiles + r / 16) * 16 + r % 16;
            int inside = r < x->rows && c < x->cols;
            if (!inverse) sc_set_raw(tiled, row, c % n0, inside ? sc_raw(x, r, c) : 0);
            else if (inside) sc_set_raw(x, r, c, sc_raw(tiled, row, c % n0));
        }
    return SC_OK;
}

/* 21. Rows 0..I and I..2I of x alternate in y, or back. */
int sc_layout_interleave(const sc_mat *x, const sc_mat *y, int inverse) {
    size_t r, c;
    if (!x || !y) return SC_MISSING;
    if (x->type != y->type) return SC_TYPE;
    if (x->rows != y->rows || x->cols != y->cols || x->rows % 2) return SC_SHAPE;
    for (r = 0; r < x->rows; r++) {
        size_t merged = r < x->rows / 2 ? 2 * r : 2 * (r - x->rows / 2) + 1;
        for (c = 0; c < x->cols; c++) {
            if (inverse) sc_set_raw(y, r, c, sc_raw(x, merged, c));
            else sc_set_raw(y, merged, c, sc_raw(x, r, c));
        }
    }
    return SC_OK;
}

/* 21. The nibbles of every byte exchanged. */
int sc_layout_nibble_swap(const sc_mat *x, const sc_mat *y) {
    size_t r, c;
    if (!x || !y) return SC_MISSING;
    if (sc_bits(x->type) != sc_bits(y->type)) return SC_TYPE;
    if (x->rows != y->rows || x->cols != y->cols) return SC_SHAPE;
    if (sc_bits(x->type) == 4) {
        for (r = 0; r < x->rows; r++)
            for (c = 0; c < x->cols; c++) sc_set_raw(y, r, c ^ 1, sc_raw(x, r, c));
        return SC_OK;
    }
    if (sc_bits(x->type) != 8) return SC_TYPE;
    for (r = 0; r < x->rows; r++)
        for (c = 0; c < x->cols; c++) {
            uint64_t v = sc_raw(x, r, c);
            sc_set_raw(y, r, c, (v << 4 | v >> 4) & 0xFF);
        }
    return SC_OK;
}

/* 21. Nibble i of word c holds code 8c + O[i]; O = 0..7, or 0,2,4,6,1,3,5,7 for awq. */
int sc_layout_pack_i32(const sc_mat *x, int awq, const sc_mat *y) {
    static const unsigned char AWQ[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    size_t r, c, i;
    if (!x || !y) return SC_MISSING;
    if (sc_bits(x->type) != 8 || sc_bits(y->type) != 32) return SC_TYPE;
    if (x->rows != y->rows || y->cols * 8 != x->cols) return SC_SHAPE;
    for (r = 0; r < y->rows; r++)
        for (c = 0; c < y->cols; c++) {
            uint64_t word = 0;
            for (i = 0; i < 8; i++) word |= (sc_raw(x, r, 8 * c + (awq ? AWQ[i] : i)) & 15) << (4 * i);
            sc_set_raw(y, r, c, word);
        }
    return SC_OK;
}

/* 21. Codes, one per byte, two to a byte, even index in the low nibble. y is of a 4-bit format, or bytes. */
int sc_layout_pack_nibbles(const sc_mat *x, const sc_mat *y) {
    size_t r, c, bytes;
    unsigned char *out;
    if (!x || !y) return SC_MISSING;
    if (sc_bits(x->type) != 8 || sc_bits(y->type) > 8) return SC_TYPE;
    bytes = sc_bits(y->type) == 4 ? y->cols / 2 : y->cols;
    if (x->rows != y->rows || bytes != sc_ceil_div(x->cols, 2)) return SC_SHAPE;
    for (r = 0; r < x->rows; r++)
        for (c = 0; c < bytes; c++) {
            uint64_t high = 2 * c + 1 < x->cols ? sc_raw(x, r, 2 * c + 1) : 0;
            out = y->data + (sc_bits(y->type) == 4 ? r * y->ld / 2 : r * y->ld) + c;
            *out = (unsigned char)((sc_raw(x, r, 2 * c) & 15) | (high & 15) << 4);
        }
    return SC_OK;
}

