//! Packings against published vectors, against a reading of one code at a time, and there and back.

use crate::support::Random;
use proptest::prelude::*;
use silicast::dtype::Dtype;
use silicast::dtype::packing::Packing;
use silicast::kernel::pack;

/// Random codes of an element, in one byte each.
fn codes(element: Dtype, count: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let bits = element.bits() as u32;
    (0..count)
        .map(|_| {
            let code = (random.next() >> 32) as u8;
            match element {
                Dtype::I2 | Dtype::I4 | Dtype::I8 => (((code << (8 - bits)) as i8) >> (8 - bits)) as u8,
                _ => code >> (8 - bits),
            }
        })
        .collect()
}

fn packed(packing: Packing, element: Dtype, codes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let mut out = vec![0xAA; pack::stored_len(packing, element, rows, cols)];
    pack::pack(packing, element, codes, rows, cols, &mut out);
    let mut back = vec![0xAA; rows * cols];
    pack::unpack(packing, element, &out, rows, cols, &mut back);
    assert!(back == codes, "{} {element} [{rows}, {cols}]", packing.name());
    out
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w)).collect()
}

/// The code at `[n, k]`, taken from the stored tensor by the definition of its layout.
fn at(packing: Packing, element: Dtype, stored: &[u8], [rows, cols]: [usize; 2], n: usize, k: usize) -> u8 {
    let bits = element.bits() as usize;
    let nibble = |byte: u8, high: bool| if high { byte >> 4 } else { byte & 15 };
    // Bit `i` of a column of a matrix of words, or of a row of bytes.
    let field =
        |bit: &dyn Fn(usize) -> u8, first: usize| (0..bits).fold(0u8, |field, i| field | bit(first + i) << i);
    let (field, unsigned) = match packing {
        Packing::Plain => (field(&|i| stored[i / 8] >> (i % 8) & 1, (n * cols + k) * bits), false),
        Packing::Pairs | Packing::PairsI8 => (nibble(stored[n * cols / 2 + k / 2], k % 2 == 1), false),
        Packing::Blocks => (nibble(stored[(n * cols / 32 + k / 32) * 16 + k % 32 / 2], k % 2 == 1), false),
        Packing::SlimQuant => (nibble(stored[n * cols / 2 + k / 2], k.is_multiple_of(2)), false),
        Packing::RowPairs => (nibble(stored[n / 2 * cols + k], n % 2 == 1), false),
        Packing::Bytes => return stored[n * cols + k],
        Packing::Int32 => {
            let row = &stored[n * (cols * bits).div_ceil(32) * 4..];
            (field(&|i| row[i / 8] >> (i % 8) & 1, k * bits), true)
        }
        Packing::Gptq | Packing::GptqV2 => {
            let words = words(stored);
            (field(&|i| (words[i / 32 * rows + n] >> (i % 32) & 1) as u8, k * bits), true)
        }
        Packing::Awq => {
            let word = words(stored)[k * (rows / 8) + n / 8];
            let i = [0, 2, 4, 6, 1, 3, 5, 7].iter().position(|row| *row == n % 8).unwrap();
            ((word >> (4 * i)) as u8 & 15, true)
        }
    };
    let half = 1i32 << (bits - 1);
    let signed = matches!(element, Dtype::I2 | Dtype::I4 | Dtype::I8);
    match (signed, unsigned) {
        (false, _) => field,
        (true, true) => (i32::from(field) - half) as u8,
        (true, false) => (i32::from(field) - if i32::from(field) >= half { 2 * half } else { 0 }) as u8,
    }
}

/// Every packing with elements that it can hold.
fn layouts() -> Vec<(Packing, Dtype)> {
    let mut found = Vec::new();
    for packing in Packing::all() {
        for element in
            [Dtype::I2, Dtype::I4, Dtype::U4, Dtype::F4E2M1, Dtype::F6E2M3, Dtype::I8, Dtype::F8E4M3]
        {
            let streams = [Packing::Plain, Packing::Bytes, Packing::Int32, Packing::Gptq, Packing::GptqV2];
            if element.bits() == 4 || streams.contains(&packing) {
                found.push((packing, element));
            }
        }
    }
    found
}

#[test]
fn published_vectors() {
    let q = [-8i8, -7, 7, 0, 0, 0, 0, 0].map(|q| q as u8);
    assert_eq!(packed(Packing::SlimQuant, Dtype::I4, &q, 1, 8)[..2], [0x89, 0x70]);
    assert_eq!(packed(Packing::PairsI8, Dtype::I4, &q, 1, 8)[..2], [0x98, 0x07]);
    assert_eq!(packed(Packing::Int32, Dtype::I4, &q, 1, 8), 0x8888_8F10u32.to_le_bytes());
    assert_eq!(packed(Packing::Gptq, Dtype::I4, &q, 1, 8), 0x8888_8F10u32.to_le_bytes());
    assert_eq!(packed(Packing::Bytes, Dtype::I4, &q, 1, 8), q);
    // 0, 1, … 7, unsigned: along K for GPTQ, along N in the order 0, 2, 4, 6, 1, 3, 5, 7 for AWQ.
    let unsigned = [0u8, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(packed(Packing::Gptq, Dtype::U4, &unsigned, 1, 8), 0x7654_3210u32.to_le_bytes());
    assert_eq!(packed(Packing::Awq, Dtype::U4, &unsigned, 8, 1), 0x7531_6420u32.to_le_bytes());
    // Two rows share a byte, the even one low.
    let rows = [-8i8, 1, 2, -1].map(|q| q as u8);
    assert_eq!(packed(Packing::RowPairs, Dtype::I4, &rows, 2, 2), [0x28, 0xF1]);
    // GPTQ's 8 bits: four to a word.
    let bytes = [-128i8, -127, 0, 127].map(|q| q as u8);
    assert_eq!(packed(Packing::Gptq, Dtype::I8, &bytes, 1, 4), [0x00, 0x01, 0x80, 0xFF]);
    // The last word of a row that does not fill it.
    assert_eq!(packed(Packing::Int32, Dtype::I4, &q[..3], 1, 3), [0x10, 0x0F, 0, 0]);
    assert_eq!(packed(Packing::Plain, Dtype::F4E2M1, &[1, 2, 15, 8], 2, 2), [0x21, 0x8F]);
}

#[test]
fn published_zero_points() {
    let packed = |packing, zeros: &[i8], rows, groups| {
        let mut out = vec![0xAA; pack::zeros_len(packing, Dtype::I4, rows, groups)];
        pack::pack_zeros(packing, Dtype::I4, zeros, rows, groups, &mut out);
        words(&out)
    };
    // A symmetric weight: z = 8, of which GPTQ's first format stores 7.
    assert_eq!(packed(Packing::Gptq, &[0; 16], 16, 1), [0x7777_7777; 2]);
    assert_eq!(packed(Packing::GptqV2, &[0; 16], 16, 1), [0x8888_8888; 2]);
    // z = 0 wraps.
    assert_eq!(packed(Packing::Gptq, &[-8; 8], 8, 1), [0xFFFF_FFFF]);
    let zeros = [-8i8, -7, -6, -5, -4, -3, -2, -1];
    assert_eq!(packed(Packing::Awq, &zeros, 8, 1), [0x7531_6420]);
    assert_eq!(packed(Packing::Int32, &zeros, 8, 1), [0x7654_3210]);
    // compressed-tensors packs along N and fills the last word with zeros; groups are the columns.
    assert_eq!(packed(Packing::Int32, &[-7, 7, -6, 6, -5, 5], 3, 2), [0x0321, 0x0DEF]);
    // In GPTQ and AWQ a group is a row.
    assert_eq!(packed(Packing::GptqV2, &[-7, 7, -6, 6, -5, 5], 3, 2), [0x0321, 0x0DEF]);
    let many: Vec<i8> = (0..32).map(|i| i % 16 - 8).collect();
    assert_eq!(packed(Packing::Int32, &many, 16, 2), [0xECA8_6420, 0xFDB9_7531, 0xECA8_6420, 0xFDB9_7531]);
    assert_eq!(packed(Packing::GptqV2, &many, 16, 2), [0xECA8_6420, 0xECA8_6420, 0xFDB9_7531, 0xFDB9_7531]);
}

#[test]
fn fp4_codes_become_fp8_codes_of_the_same_value() {
    let codes: Vec<u8> = (0..16).collect();
    let mut out = vec![0; 16];
    pack::fp4_to_e4m3(&codes, &mut out);
    for (code, e4m3) in codes.iter().zip(out) {
        let fp4 = microfloat::f4e2m1fn::from_bits(*code).to_f32();
        let fp8 = microfloat::f8e4m3fn::from_bits(e4m3).to_f32();
        assert_eq!(fp4.to_bits(), fp8.to_bits(), "{code}");
    }
}

#[test]
fn codes_out_of_range_are_found() {
    let codes = [-8i8, 7, 0, 8, -9].map(|c| c as u8);
    assert_eq!(pack::first_out_of_range(Dtype::I4, &codes), Some(3));
    assert_eq!(pack::first_out_of_range(Dtype::I4, &codes[..3]), None);
    assert_eq!(pack::first_out_of_range(Dtype::I8, &[0, 0x80, 0x7F]), None);
    assert_eq!(pack::first_out_of_range(Dtype::F4E2M1, &[15, 16]), Some(1));
    assert_eq!(pack::first_out_of_range(Dtype::U4, &[]), None);
}

#[test]
fn scale_biases_sum_pieces_exactly() {
    let codes: Vec<u8> = (0..2 * 32).map(|i| (i % 16 - 8) as u8).collect();
    let mut out = [0.0; 2 * 16];
    pack::scale_bias(&codes, &[0.5, 2.0], 2, 32, 16, &mut out);
    // Pieces of two: −8 − 7, −6 − 5, …
    let expected: Vec<f32> =
        [0.5, 2.0].iter().flat_map(|s| (0..16).map(move |p| (8 * (4 * (p % 8) - 15)) as f32 * s)).collect();
    assert_eq!(out[..], expected);
    // Beyond 2^24 the sum is rounded, not the partial sums.
    let wide = vec![-8i8 as u8; 300_001];
    let mut out = [0.0];
    pack::scale_bias(&wide, &[0.1], 1, wide.len(), 1, &mut out);
    assert_eq!(out, [-19_200_064.0 * 0.1f32]);
}

proptest! {
    #[test]
    fn every_layout_is_what_its_definition_says(
        (packing, element) in prop::sample::select(layouts()),
        row_units in 1usize..12,
        col_units in 1usize..40,
        seed in any::<u64>(),
    ) {
        let (rows, cols) =
            (row_units * packing.rows() as usize, col_units * packing.cols(element.bits()) as usize);
        let codes = codes(element, rows * cols, seed);
        let stored = packed(packing, element, &codes, rows, cols);
        for n in 0..rows {
            for k in 0..cols {
                prop_assert_eq!(at(packing, element, &stored, [rows, cols], n, k), codes[n * cols + k]);
            }
        }
    }

    #[test]
    fn bit_streams_may_end_in_the_middle_of_a_word(
        element in prop::sample::select(vec![Dtype::I2, Dtype::I4, Dtype::F6E3M2, Dtype::I8]),
        rows in 1usize..9,
        cols in 1usize..300,
        seed in any::<u64>(),
    ) {
        let codes = codes(element, rows * cols, seed);
        let stored = packed(Packing::Int32, element, &codes, rows, cols);
        for n in 0..rows {
            for k in 0..cols {
                prop_assert_eq!(at(Packing::Int32, element, &stored, [rows, cols], n, k), codes[n * cols + k]);
            }
        }
        let bits = cols * element.bits() as usize;
        for row in words(&stored).chunks(bits.div_ceil(32)) {
            prop_assert!(bits.is_multiple_of(32) || row.last().unwrap() >> (bits % 32) == 0);
        }
    }

    #[test]
    fn zero_points_lie_as_codes_do(
        packing in prop::sample::select(Packing::all().collect::<Vec<_>>()),
        element in prop::sample::select(vec![Dtype::I2, Dtype::I4, Dtype::I8]),
        rows in 1usize..70,
        groups in 1usize..9,
        seed in any::<u64>(),
    ) {
        let element = if packing == Packing::Awq { Dtype::I4 } else { element };
        let bits = element.bits();
        let zeros: Vec<i8> = codes(element, rows * groups, seed).into_iter().map(|z| z as i8).collect();
        let mut stored = vec![0xAA; pack::zeros_len(packing, element, rows, groups)];
        pack::pack_zeros(packing, element, &zeros, rows, groups, &mut stored);
        let mut back = vec![0; rows * groups];
        pack::unpack_zeros(packing, element, &stored, rows, groups, &mut back);
        prop_assert_eq!(&back, &zeros);
        // As the codes of a weight whose columns are the rows, rounded up to whole words.
        let per_word = 32 / bits as usize;
        let (full, transposed) = (rows.next_multiple_of(per_word), |zero: i8| match packing {
            Packing::Gptq => zero.wrapping_sub(1) << (8 - bits) >> (8 - bits),
            _ => zero,
        });
        let half = 1i32 << (bits - 1);
        for (i, zero) in zeros.iter().enumerate() {
            let (row, group) = (i / groups, i % groups);
            let unsigned = (i32::from(transposed(*zero)) + half) as u32;
            let found = match packing {
                Packing::Int32 => words(&stored)[row / per_word * groups + group] >> (row % per_word * bits as usize),
                Packing::Gptq | Packing::GptqV2 => {
                    words(&stored)[group * full / per_word + row / per_word] >> (row % per_word * bits as usize)
                }
                Packing::Awq => {
                    let nibble = [0, 2, 4, 6, 1, 3, 5, 7].iter().position(|r| *r == row % 8).unwrap();
                    words(&stored)[group * full / 8 + row / 8] >> (4 * nibble)
                }
                _ => (u32::from(stored[i]) ^ 0x80).wrapping_sub(128).wrapping_add(half as u32),
            };
            prop_assert_eq!(found & ((1 << bits) - 1), unsigned);
        }
    }

    #[test]
    fn transposed_elements_change_their_axes(rows in 1usize..90, cols in 1usize..90, seed in any::<u64>()) {
        let bytes = codes(Dtype::U8, rows * cols * 4, seed);
        let mut out = vec![0; bytes.len()];
        pack::transpose::<4>(&bytes, rows, cols, &mut out);
        for i in 0..rows * cols {
            prop_assert_eq!(&out[(i % cols * rows + i / cols) * 4..][..4], &bytes[i * 4..][..4]);
        }
        let mut back = vec![0; bytes.len()];
        pack::transpose::<4>(&out, cols, rows, &mut back);
        prop_assert_eq!(&back, &bytes);
        let mut wide = vec![0; bytes.len()];
        pack::transpose::<1>(&bytes, rows, cols * 4, &mut wide);
        prop_assert!((0..bytes.len()).all(|i| wide[i % (cols * 4) * rows + i / (cols * 4)] == bytes[i]));
    }

    #[test]
    fn zero_points_are_subtracted_by_block(
        rows in 1usize..5,
        cols in 1usize..200,
        block in 1usize..140,
        seed in any::<u64>(),
    ) {
        let groups = cols.div_ceil(block);
        let mut shifted = codes(Dtype::I4, rows * cols, seed);
        let before = shifted.clone();
        let zeros: Vec<i8> = codes(Dtype::I4, rows * groups, !seed).into_iter().map(|z| z as i8).collect();
        pack::subtract_zeros(&mut shifted, rows, cols, &zeros, block);
        for (i, (after, before)) in shifted.iter().zip(before).enumerate() {
            prop_assert_eq!(*after as i8, before as i8 - zeros[i / cols * groups + i % cols / block]);
        }
    }
}
