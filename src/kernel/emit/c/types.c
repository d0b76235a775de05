#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ============================== Types ============================== */

/* Element formats. 4-bit formats are packed two to a byte along the last axis, even index in the low nibble. */
typedef enum {
    SC_NONE, SC_F64, SC_F32, SC_F16, SC_BF16, SC_E4M3, SC_E5M2, SC_E4M3FNUZ, SC_E5M2FNUZ, SC_E8M0, SC_E2M1,
    SC_U4, SC_I4, SC_U8, SC_I8, SC_I16, SC_U16, SC_I32, SC_U32, SC_I64, SC_U64
} sc_type;

/* A matrix: element (r, c) is element r * ld + c of `data`, whose elements are little-endian whatever the machine is.
   cols and ld count elements, also of packed formats (then ld is even). Tensors of more axes are matrices whose rows
   run over all axes but the last; vectors have one row. */
typedef struct {
    sc_type type;
    size_t rows, cols, ld;
    unsigned char *data;
} sc_mat;

/* What a kernel returns. */
enum { SC_OK = 0, SC_MISSING, SC_TYPE, SC_SHAPE, SC_PARAM, SC_VALUE };

static const char *sc_error_text(int code) {
    switch (code) {
    case SC_OK: return "no error";
    case SC_MISSING: return "an argument is missing";
    case SC_TYPE: return "an argument has a format that this kernel does not take";
    case SC_SHAPE: return "the shapes of the arguments do not fit together";
    case SC_PARAM: return "a parameter has a value that this kernel does not take";
    default: return "an argument holds a value that this kernel does not take";
    }
}

/* Bits of an element. */
static unsigned sc_bits(sc_type t) {
    switch (t) {
    case SC_F64: case SC_I64: case SC_U64: return 64;
    case SC_F32: case SC_I32: case SC_U32: return 32;
    case SC_F16: case SC_BF16: case SC_I16: case SC_U16: return 16;
    case SC_E2M1: case SC_U4: case SC_I4: return 4;
    case SC_NONE: return 0;
    default: return 8;
    }
}

static size_t sc_ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

static size_t sc_count(const sc_mat *m) { return m->rows * m->cols; }

