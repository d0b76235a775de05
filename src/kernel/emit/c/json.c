/* ============================== Harness: files ============================== */

/* From here on memory is allocated; the kernels above allocate nothing. */

enum { SC_MAX_FILE = 1 << 30, SC_MAX_DEPTH = 32, SC_MAX_RANK = 6 };

typedef struct {
    unsigned char *data;
    size_t size;
} sc_bytes;

/* Reads a file whole; 0 if that fails or if it is larger than SC_MAX_FILE. */
static int sc_read_file(const char *path, sc_bytes *out) {
    FILE *file = fopen(path, "rb");
    size_t room = 0, got;
    out->data = NULL;
    out->size = 0;
    if (!file) return 0;
    for (;;) {
        if (out->size == room) {
            unsigned char *grown;
            room = room ? room * 2 : 65536;
            if (room > (size_t)SC_MAX_FILE) break;
            grown = (unsigned char *)realloc(out->data, room);
            if (!grown) break;
            out->data = grown;
        }
        got = fread(out->data + out->size, 1, room - out->size, file);
        out->size += got;
        if (got == 0) {
            int failed = ferror(file) != 0;
            fclose(file);
            if (failed) free(out->data);
            return !failed;
        }
    }
    fclose(file);
    free(out->data);
    return 0;
}

/* ---- JSON: strict RFC 8259, at most SC_MAX_DEPTH deep ---- */

enum { SC_JSON_NULL, SC_JSON_FALSE, SC_JSON_TRUE, SC_JSON_NUMBER, SC_JSON_TEXT, SC_JSON_ARRAY, SC_JSON_OBJECT };

typedef struct sc_json {
    int kind;
    double number;
    int64_t integer;      /* numbers: the value if `exact` */
    int exact;            /* numbers: written without fraction and exponent, and within 64 bits */
    char *text;           /* texts; UTF-8 */
    char *key;            /* members of objects */
    struct sc_json *first, *next;
} sc_json;

typedef struct {
    const unsigned char *at, *end, *start;
    const char *error;
} sc_json_reader;

static void sc_json_free(sc_json *value) {
    while (value) {
        sc_json *next = value->next;
        sc_json_free(value->first);
        free(value->text);
        free(value->key);
        free(value);
        value = next;
    }
}

static void sc_json_space(sc_json_reader *in) {
    while (in->at < in->end && (*in->at == ' ' || *in->at == '\n' || *in->at == '\r' || *in->at == '\t')) in->at++;
}

static int sc_json_fail(sc_json_reader *in, const char *why) {
    if (!in->error) in->error = why;
    return 0;
}

static int sc_json_hex4(sc_json_reader *in, unsigned *out) {
    int i;
    *out = 0;
    for (i = 0; i < 4; i++) {
        unsigned c, digit;
        if (in->at == in->end) return sc_json_fail(in, "a cut escape");
        c = *in->at++;
        if (c >= '0' && c <= '9') digit = c - '0';
        else if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
        else if (c >= 'A' && c <= 'F') digit = c - 'A' + 10;
        else return sc_json_fail(in, "an escape without four hexadecimal digits");
        *out = *out << 4 | digit;
    }
    return 1;
}

/* A text after its opening quote. Escapes never take more bytes in UTF-8 than written. */
static char *sc_json_text(sc_json_reader *in) {
    const unsigned char *from = in->at;
    size_t n = 0, size = 0;
    char *out;
    while (from + size < in->end && from[size] != '"') {
        if (from[size] == '\\') size++;
        size++;
    }
    if (from + size >= in->end) { sc_json_fail(in, "a text without an end"); return NULL; }
    out = (char *)malloc(size + 1);
    if (!out) { sc_json_fail(in, "out of memory"); return NULL; }
    while (*in->at != '"') {
        unsigned c = *in->at++, low;
        if (c < 0x20) { sc_json_fail(in, "a control character in a text"); break; }
        if (c != '\\') { out[n++] = (char)c; continue; }
        c = *in->at++;
        if (c == '"' || c == '\\' || c == '/') out[n++] = (char)c;
        else if (c == 'b') out[n++] = '\b';
        else if (c == 'f') out[n++] = '\f';
        else if (c == 'n') out[n++] = '\n';
        else if (c == 'r') out[n++] = '\r';
        else if (c == 't') out[n++] = '\t';
        else if (c == 'u') {
            if (!sc_json_hex4(in, &c)) break;
            if (c == 0) { sc_json_fail(in, "a NUL in a text"); break; }
            if (c >= 0xDC00 && c < 0xE000) { sc_json_fail(in, "half a surrogate pair"); break; }
            if (c >= 0xD800 && c < 0xDC00) {
                if (in->end - in->at < 6 || in->at[0] != '\\' || in->at[1] != 'u') { sc_json_fail(in, "half a surrogate pair"); break; }
                in->at += 2;
                if (!sc_json_hex4(in, &low)) break;
                if (low < 0xDC00 || low > 0xDFFF) { sc_json_fail(in, "half a surrogate pair"); break; }
                c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
            }
            if (c < 0x80) out[n++] = (char)c;
            else if (c < 0x800) { out[n++] = (char)(0xC0 | c >> 6); out[n++] = (char)(0x80 | (c & 63)); }
            else if (c < 0x10000) {
                out[n++] = (char)(0xE0 | c >> 12);
                out[n++] = (char)(0x80 | (c >> 6 & 63));
                out[n++] = (char)(0x80 | (c & 63));
            } else {
                out[n++] = (char)(0xF0 | c >> 18);
                out[n++] = (char)(0x80 | (c >> 12 & 63));
                out[n++] = (char)(0x80 | (c >> 6 & 63));
                out[n++] = (char)(0x80 | (c & 63));
            }
        } else { sc_json_fail(in, "an unknown escape"); break; }
        if (in->at >= in->end) { sc_json_fail(in, "a text without an end"); break; }
    }
    if (in->error) { free(out); return NULL; }
    in->at++;
    out[n] = 0;
    return out;
}

static int sc_json_digits(sc_json_reader *in) {
    const unsigned char *from = in->at;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9') in->at++;
    return in->at > from;
}

static int sc_json_number(sc_json_reader *in, sc_json *value) {
    const unsigned char *from = in->at;
    char copy[64];
    size_t n;
    int integer = 1;
    if (*in->at == '-') in->at++;
    if (in->at < in->end && *in->at == '0') in->at++;
    else if (!sc_json_digits(in)) return sc_json_fail(in, "a number without digits");
    if (in->at < in->end && *in->at == '.') {
        in->at++;
        integer = 0;
        if (!sc_json_digits(in)) return sc_json_fail(in, "a number without digits after the point");
    }
    if (in->at < in->end && (*in->at == 'e' || *in->at == 'E')) {
        in->at++;
        integer = 0;
        if (in->at < in->end && (*in->at == '+' || *in->at == '-')) in->at++;
        if (!sc_json_digits(in)) return sc_json_fail(in, "a number without an exponent");
    }
    n = (size_t)(in->at - from);
    if (n >= sizeof copy) return sc_json_fail(in, "a number of more than 63 characters");
    memcpy(copy, from, n);
    copy[n] = 0;
    value->kind = SC_JSON_NUMBER;
    value->number = strtod(copy, NULL);
    value->exact = integer && n <= 18;
    if (value->exact) {
        const char *p = copy[0] == '-' ? copy + 1 : copy;
        for (; *p; p++) value->integer = value->integer * 10 + (*p - '0');
        if (copy[0] == '-') value->integer = -value->integer;
    }
    return 1;
}

static int sc_json_word(sc_json_reader *in, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(in->end - in->at) < n || memcmp(in->at, word, n) != 0) return sc_json_fail(in, "an unknown word");
    in->at += n;
    return 1;
}

static sc_json *sc_json_value(sc_json_reader *in, int depth);

/* The elements of an array or the members of an object, after the opening bracket. */
static int sc_json_items(sc_json_reader *in, sc_json *parent, unsigned char close, int depth) {
    sc_json **tail = &parent->first;
    sc_json_space(in);
    if (in->at < in->end && *in->at == close) { in->at++; return 1; }
    for (;;) {
        char *key = NULL;
        sc_json *item;
        if (parent->kind == SC_JSON_OBJECT) {
            const sc_json *other;
            sc_json_space(in);
            if (in->at == in->end || *in->at != '"') return sc_json_fail(in, "a member without a name");
            in->at++;
            key = sc_json_text(in);
            if (!key) return 0;
            for (other = parent->first; other; other = other->next)
                if (strcmp(other->key, key) == 0) { free(key); return sc_json_fail(in, "two members of one name"); }
            sc_json_space(in);
            if (in->at == in->end || *in->at != ':') { free(key); return sc_json_fail(in, "a member without a colon"); }
            in->at++;
        }
        item = sc_json_value(in, depth);
        if (!item) { free(key); return 0; }
        item->key = key;
        *tail = item;
        tail = &item->next;
        sc_json_space(in);
        if (in->at == in->end) return sc_json_fail(in, "an end inside a value");
        if (*in->at == close) { in->at++; return 1; }
        if (*in->at != ',') return sc_json_fail(in, "no comma between two values");
        in->at++;
    }
}

static sc_json *sc_json_value(sc_json_reader *in, int depth) {
    sc_json *value;
    int fine;
    sc_json_space(in);
    if (in->at == in->end) { sc_json_fail(in, "an end instead of a value"); return NULL; }
    if (depth > SC_MAX_DEPTH) { sc_json_fail(in, "nesting too deep"); return NULL; }
    value = (sc_json *)calloc(1, sizeof *value);
    if (!value) { sc_json_fail(in, "out of memory"); return NULL; }
    switch (*in->at) {
    case '{': in->at++; value->kind = SC_JSON_OBJECT; fine = sc_json_items(in, value, '}', depth + 1); break;
    case '[': in->at++; value->kind = SC_JSON_ARRAY; fine = sc_json_items(in, value, ']', depth + 1); break;
    case '"': in->at++; value->kind = SC_JSON_TEXT; value->text = sc_json_text(in); fine = value->text != NULL; break;
    case 't': value->kind = SC_JSON_TRUE; fine = sc_json_word(in, "true"); break;
    case 'f': value->kind = SC_JSON_FALSE; fine = sc_json_word(in, "false"); break;
    case 'n': value->kind = SC_JSON_NULL; fine = sc_json_word(in, "null"); break;
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        fine = sc_json_number(in, value);
        break;
    default: fine = sc_json_fail(in, "a character that starts no value"); break;
    }
    if (!fine) { sc_json_free(value); return NULL; }
    return value;
}

/* The value of a whole text, or NULL with `in->error` set. */
static sc_json *sc_json_parse(sc_json_reader *in, const sc_bytes *text) {
    static const unsigned char nothing = 0;
    sc_json *value;
    in->start = in->at = text->data ? text->data : &nothing;
    in->end = in->start + text->size;
    in->error = NULL;
    value = sc_json_value(in, 0);
    if (!value) return NULL;
    sc_json_space(in);
    if (in->at != in->end) {
        sc_json_fail(in, "something after the value");
        sc_json_free(value);
        return NULL;
    }
    return value;
}

static const sc_json *sc_json_member(const sc_json *object, const char *key) {
    const sc_json *m;
    if (!object || object->kind != SC_JSON_OBJECT) return NULL;
    for (m = object->first; m; m = m->next)
        if (strcmp(m->key, key) == 0) return m;
    return NULL;
}

static const char *sc_json_string(const sc_json *object, const char *key) {
    const sc_json *m = sc_json_member(object, key);
    return m && m->kind == SC_JSON_TEXT ? m->text : NULL;
}

