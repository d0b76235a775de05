/* ---- .npy ---- */

/* An array of a case, or a file to compare. */
typedef struct {
    sc_type type;
    size_t rank, shape[SC_MAX_RANK]; /* as stored: the last axis of packed formats counts bytes */
    sc_mat mat;
    sc_bytes file;                   /* what `mat.data` points into; all of it for computed arrays */
} sc_array;

typedef struct {
    const char *name, *descr;
    sc_type type;
} sc_dtype;

static const sc_dtype SC_DTYPES[] = {
    {"F64", "<f8", SC_F64}, {"F32", "<f4", SC_F32}, {"F16", "<f2", SC_F16}, {"BF16", "<u2", SC_BF16},
    {"F8_E4M3", "|u1", SC_E4M3}, {"F8_E5M2", "|u1", SC_E5M2}, {"F8_E4M3FNUZ", "|u1", SC_E4M3FNUZ},
    {"F8_E5M2FNUZ", "|u1", SC_E5M2FNUZ}, {"F8_E8M0", "|u1", SC_E8M0}, {"F4", "|u1", SC_E2M1}, {"U4", "|u1", SC_U4},
    {"I4", "|u1", SC_I4}, {"U8", "|u1", SC_U8}, {"I8", "|i1", SC_I8}, {"I16", "<i2", SC_I16}, {"U16", "<u2", SC_U16},
    {"I32", "<i4", SC_I32}, {"U32", "<u4", SC_U32}, {"I64", "<i8", SC_I64}, {"U64", "<u8", SC_U64},
};

static const sc_dtype *sc_find_dtype(const char *name) {
    size_t i;
    for (i = 0; name && i < sizeof SC_DTYPES / sizeof *SC_DTYPES; i++)
        if (strcmp(SC_DTYPES[i].name, name) == 0) return &SC_DTYPES[i];
    return NULL;
}

/* Bytes of a stored shape, and the matrix view of it; 0 where sizes overflow. */
static int sc_array_layout(sc_array *a, size_t *bytes) {
    size_t i, item = sc_bits(a->type) < 8 ? 1 : sc_bits(a->type) / 8, limit = (size_t)SC_MAX_FILE, rows = 1, cols = 1;
    *bytes = item;
    /* Axes of length 0 do not excuse the others: products are formed over the non-zero ones. */
    for (i = 0; i < a->rank; i++) {
        if (a->shape[i] > limit) return 0;
        if (a->shape[i] && *bytes > limit / a->shape[i]) return 0;
        if (a->shape[i]) *bytes *= a->shape[i];
    }
    for (i = 0; i < a->rank; i++)
        if (a->shape[i] == 0) *bytes = 0;
    for (i = 0; i + 1 < a->rank; i++) rows *= a->shape[i];
    if (a->rank) cols = a->shape[a->rank - 1];
    a->mat.type = a->type;
    a->mat.rows = rows;
    a->mat.cols = sc_bits(a->type) == 4 ? cols * 2 : cols;
    a->mat.ld = a->mat.cols;
    return 1;
}

static const char *sc_npy_skip(const char *p) {
    while (*p == ' ') p++;
    return p;
}

/* The header dictionary of a .npy: its three keys in any order, nothing else. Returns an error text or NULL. */
static const char *sc_npy_header(const char *p, char *descr, size_t descr_size, sc_array *a) {
    int seen = 0;
    p = sc_npy_skip(p);
    if (*p++ != '{') return "its header is no dictionary";
    for (;;) {
        p = sc_npy_skip(p);
        if (*p == '}') break;
        if (strncmp(p, "'descr':", 8) == 0 && !(seen & 1)) {
            size_t n = 0;
            char quote;
            p = sc_npy_skip(p + 8);
            quote = *p++;
            if (quote != '\'' && quote != '"') return "its descr is no text (structured types are not read)";
            while (*p && *p != quote && n + 1 < descr_size) descr[n++] = *p++;
            if (*p++ != quote) return "its descr is too long";
            descr[n] = 0;
            seen |= 1;
        } else if (strncmp(p, "'fortran_order':", 16) == 0 && !(seen & 2)) {
            p = sc_npy_skip(p + 16);
            if (strncmp(p, "False", 5) == 0) p += 5;
            else return "it is in Fortran order: write it in C order";
            seen |= 2;
        } else if (strncmp(p, "'shape':", 8) == 0 && !(seen & 4)) {
            p = sc_npy_skip(p + 8);
            if (*p++ != '(') return "its shape is no tuple";
            a->rank = 0;
            for (;;) {
                size_t v = 0;
                p = sc_npy_skip(p);
                if (*p == ')') break;
                if (*p < '0' || *p > '9') return "its shape is no tuple of lengths";
                for (; *p >= '0' && *p <= '9'; p++) {
                    if (v > (size_t)SC_MAX_FILE) return "its shape is too large";
                    v = v * 10 + (size_t)(*p - '0');
                }
                if (a->rank == SC_MAX_RANK) return "it has too many axes";
                a->shape[a->rank++] = v;
                p = sc_npy_skip(p);
                if (*p == ',') p++;
                else if (*p != ')') return "its shape is no tuple of lengths";
            }
            p++;
            seen |= 4;
        } else {
            return "its header has an unknown or repeated key";
        }
        p = sc_npy_skip(p);
        if (*p == ',') p++;
        else if (*p != '}') return "its header is no dictionary";
    }
    for (p++; *p == ' ' || *p == '\n'; p++) {}
    if (*p) return "its header is followed by something else";
    return seen == 7 ? NULL : "its header lacks a key";
}

/* Reads the .npy at `path` into `a`, its raw type into `descr`. Returns an error text or NULL. `a` owns the bytes. */
static const char *sc_npy_read(const char *path, sc_array *a, char *descr, size_t descr_size, size_t *offset) {
    size_t start, length;
    char *header;
    const char *error;
    memset(a, 0, sizeof *a);
    if (!sc_read_file(path, &a->file)) return "it cannot be read";
    if (a->file.size < 12 || memcmp(a->file.data, "\x93NUMPY", 6) != 0) return "it is no .npy file";
    if (a->file.data[6] == 1) {
        start = 10;
        length = (size_t)a->file.data[8] | (size_t)a->file.data[9] << 8;
    } else if (a->file.data[6] == 2 || a->file.data[6] == 3) {
        start = 12;
        length = (size_t)a->file.data[8] | (size_t)a->file.data[9] << 8 | (size_t)a->file.data[10] << 16 |
                 (size_t)a->file.data[11] << 24;
    } else {
        return "its .npy version is unknown";
    }
    if (length > a->file.size - start) return "its header is cut";
    header = (char *)malloc(length + 1);
    if (!header) return "out of memory";
    memcpy(header, a->file.data + start, length);
    header[length] = 0;
    error = sc_npy_header(header, descr, descr_size, a);
    free(header);
    *offset = start + length;
    return error;
}

/* Gives `a` the format `type` and checks that the data are as long as the shape says. */
static const char *sc_array_finish(sc_array *a, sc_type type, size_t offset) {
    size_t bytes;
    a->type = type;
    if (!sc_array_layout(a, &bytes)) return "its shape is too large";
    if (a->file.size - offset != bytes) return a->file.size - offset < bytes ? "its data are cut" : "its data are longer than its shape";
    a->mat.data = a->file.data + offset;
    return NULL;
}

static void sc_array_free(sc_array *a) {
    free(a->file.data);
    memset(a, 0, sizeof *a);
}

