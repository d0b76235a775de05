/* kernels.c: reference kernels for chips that run quantized language models, written by silicast.

   WHAT THIS IS. One file of C99 that defines, to the last bit, what matrix products, quantizers, norms, attention, experts,
   caches and layouts of a converted model compute. It is also valid C11 and C++11. It needs no mathematics library, and the
   kernels allocate nothing.

   BUILD.  cc -std=c99 -O2 -o kernels kernels.c      (any of -O0 to -O3, -march=native; not -Ofast, not -ffast-math)
   RUN.    ./kernels [DIR]                           DIR holds manifest.json and golden/; the default is .
   It computes every golden case and compares the bits: a line `ok KERNEL/CASE` or `FAIL KERNEL/CASE ...` with the first
   coordinate that differs. Exit status 0 equal, 1 different, 2 unreadable, 3 refused. At the start it tests that the build
   and the processor's mode leave IEEE arithmetic alone; where fast-math, fused operations, x87 registers or flushing of
   subnormals would change results it prints a line that starts with `refused:`.

   COMPARE YOUR CHIP.  1. Read the inputs of a case (golden/KERNEL.CASE.ARGUMENT.npy; dtypes, shapes and parameters are in
   manifest.json). 2. Run your kernel on them. 3. Write its result as .npy, C order, in the format of the golden output (FP8,
   FP4 and E8M0 as bytes, BF16 as uint16) or, for floats, as values in float16, float32 or float64. 4. Then
       ./kernels --compare yours.npy --case KERNEL/CASE[:OUTPUT] [DIR]
   prints calc_diff, rel_diff, MERE, MARE, RMSE, diff1 to diff4, the largest error, cosine, SQNR and the first coordinate
   that differs, and exits with 1 unless all elements are equal.
   If your matrix unit has a short accumulator, the cases with mode R2 show the model of one: search its parameters (mma_k,
   fraction_bits, rounding, promote_every, fma, order in manifest.json) until all bits are equal.

   USE IN YOUR TESTS.  Define SILICAST_NO_MAIN and include this file, then call sc_gemm_fp8_block and the like: every kernel
   takes matrices with sizes and leading dimensions (sc_mat) and returns 0 or a code that sc_error_text explains. Call
   sc_self_test first.

   CONVENTIONS.  Matrices are row-major; B of a product is [N,K]. Every operation on binary32 or binary64 is rounded once, to
   nearest even, in the order written. d is the dot product of a scale block: exact, then rounded once (mode R0); in sequence
   (R1); or as a matrix unit does it (R2). A NaN that arithmetic makes is stored as 0x7FC00000 (binary32), 0x7FC0 (BF16). */

#ifdef __cplusplus
#define __STDC_CONSTANT_MACROS
#define __STDC_LIMIT_MACROS
#endif
