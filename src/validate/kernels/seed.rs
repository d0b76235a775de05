//! Seeded inputs: the same bits on every machine, for a name and a seed.

use crate::dtype::codec::{bf16_from_f32, f32_from_bf16};

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    state: u64,
}

impl Stream {
    /// The stream called `name`: its state is FNV-1a (64 bits) of the name, plus `seed`.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut state = 0xcbf2_9ce4_8422_2325u64;
        for byte in name.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self { state: state.wrapping_add(seed) }
    }

    /// 64 random bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A bell-shaped value of mean 0 and standard deviation 1 within ±3.47: the centred sum of four uniform 16-bit
    /// integers. Integer arithmetic and one multiplication, so no mathematics library enters.
    pub(crate) fn gaussian(&mut self) -> f32 {
        let bits = self.next_u64();
        let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
        // The variance of one uniform 16-bit integer is (2^32 − 1) / 12: sigma of the sum is 65536 / √3.
        (sum as f32 - 131_070.0) * (1.732_050_8 / 65_536.0)
    }

    /// `count` values on the BF16 grid: unit Gaussian, and one value in 1024 three times as large, as activations have
    /// channels that stand out. Much larger outliers would measure the activations and not the weights: at INT8 the
    /// step grows with the largest value of a token.
    pub(crate) fn activations(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let x = self.gaussian();
                let x = if self.next_u64() >> 54 == 0 { 3.0 * x } else { x };
                f32_from_bf16(bf16_from_f32(x))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence_and_unit_variance() {
        let mut stream = Stream { state: 0 };
        let expected = [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f];
        assert_eq!(std::array::from_fn(|_| stream.next_u64()), expected);
        let values = Stream::new(7, "x").activations(100_000);
        let n = values.len() as f64;
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / n;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        assert!(values.iter().any(|x| x.abs() > 4.0));
        assert_ne!(Stream::new(7, "x").next_u64(), Stream::new(8, "x").next_u64());
    }
}
