//! Codes shifted by zero points, FP4 as FP8, and sums of codes.

/// FP4 (E2M1) codes as E4M3 codes of the same values: every E2M1 value is an E4M3 value, −0 included. Upper nibbles are
/// ignored.
///
/// # Panics
/// If the slices differ in length.
pub fn fp4_to_e4m3(codes: &[u8], out: &mut [u8]) {
    assert_eq!(codes.len(), out.len(), "one code for one code");
    for (out, code) in out.iter_mut().zip(codes) {
        let magnitude = code & 7;
        // One mantissa bit on top of three, and the difference of the biases; 0.5 is subnormal in E2M1 only.
        let normal = (magnitude << 2) + (6 << 3);
        let small = if magnitude == 1 { 6 << 3 } else { normal };
        *out = (code & 8) << 4 | if magnitude == 0 { 0 } else { small };
    }
}

/// Subtracts the zero points `[rows, ⌈cols / block_cols⌉]` from 4-bit codes `[rows, cols]`, one byte each, in place. The
/// differences, −15..=15, are codes of `I8`.
///
/// # Panics
/// If a length is another one, or `block_cols` is zero.
pub fn subtract_zeros(codes: &mut [u8], rows: usize, cols: usize, zeros: &[i8], block_cols: usize) {
    let groups = cols.div_ceil(block_cols);
    assert!(codes.len() == rows * cols, "{} codes for [{rows}, {cols}]", codes.len());
    assert!(zeros.len() == rows * groups, "{} zero points for [{rows}, {groups}]", zeros.len());
    if cols == 0 {
        return;
    }
    for (line, zeros) in codes.chunks_exact_mut(cols).zip(zeros.chunks_exact(groups)) {
        for (block, zero) in line.chunks_mut(block_cols).zip(zeros) {
            block.iter_mut().for_each(|code| *code = code.wrapping_sub(*zero as u8));
        }
    }
}

/// The `scale_bias` of vllm-ascend's W4A8: `f32(8 · Σ q) · s` per row and piece of the columns, for signed codes
/// `[rows, cols]`, one byte each, and scales `[rows]`; `out` is `[rows, pieces]`. The sum is exact, its cast is rounded
/// only beyond 2^24 and the product once.
///
/// # Panics
/// If a length is another one, or `cols` is no multiple of `pieces`.
pub fn scale_bias(codes: &[u8], scales: &[f32], rows: usize, cols: usize, pieces: usize, out: &mut [f32]) {
    assert!(pieces > 0 && cols.is_multiple_of(pieces), "{cols} columns are not {pieces} equal pieces");
    assert!(codes.len() == rows * cols, "{} codes for [{rows}, {cols}]", codes.len());
    assert!(scales.len() == rows && out.len() == rows * pieces, "one scale and {pieces} biases per row");
    let width = cols / pieces;
    for (row, (out, scale)) in out.chunks_exact_mut(pieces).zip(scales).enumerate() {
        for (piece, out) in out.iter_mut().enumerate() {
            let codes = &codes[row * cols + piece * width..][..width];
            *out = (8 * sum(codes)) as f32 * scale;
        }
    }
}

/// The sum of two's complement bytes.
fn sum(codes: &[u8]) -> i64 {
    // 2^15 of them fit an i32 a thousand times over.
    codes.chunks(1 << 15).map(|c| i64::from(c.iter().map(|c| i32::from(*c as i8)).sum::<i32>())).sum()
}
