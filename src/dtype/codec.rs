//! Codes to values and back.
//!
//! Every conversion is pure, total and free of panics; high bits of a code beyond the format are ignored.

mod hot;

pub use hot::{
    bf16_from_f32, e4m3_from_f32_clamped, e8m0_from_pow2, f16_from_f32, f32_from_bf16, f32_from_e4m3, f32_from_e8m0,
    f32_from_f16,
};
