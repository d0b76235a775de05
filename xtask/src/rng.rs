//! The one random generator of the fixtures: SplitMix64, with a stream per tensor.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
/// `state += 0x9e3779b97f4a7c15`, then two xor-shift-multiply rounds and a final xor-shift.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The generator that starts from `seed`.
    pub fn new(seed: u64) -> Self {
        SplitMix64 { state: seed }
    }

    /// The stream of one tensor of one fixture: the seed is FNV-1a (64 bits) of `fixture`, `/` and `tensor`, so that
    /// no tensor's values depend on which other tensors exist or on their order.
    pub fn for_tensor(fixture: &str, tensor: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in fixture.bytes().chain(*b"/").chain(tensor.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        SplitMix64::new(hash)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A uniform integer in `0..bound` (the tiny bias of the multiply-shift does not matter here).
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A uniform value in `[0, 1)` with 24 bits, exact in f32.
    pub fn unit(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 * (1.0 / 16_777_216.0)
    }

    /// A bell-shaped value of mean 0 and standard deviation 1 in about ±3.46: the centred sum of four uniform 16-bit
    /// integers from one draw. Integer arithmetic and one multiplication: the same bits on every machine.
    pub fn gaussian(&mut self) -> f32 {
        let bits = self.next_u64();
        let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
        // The variance of one uniform 16-bit integer is (2^32 - 1) / 12, so sigma of the sum is 65536 / sqrt(3).
        (sum as f32 - 131_070.0) * (1.732_050_8 / 65_536.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_matches_the_published_sequence_of_seed_0() {
        let mut rng = SplitMix64::new(0);
        let expected = [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f];
        assert_eq!(std::array::from_fn(|_| rng.next_u64()), expected);
    }

    #[test]
    fn gaussian_has_unit_variance() {
        let mut rng = SplitMix64::for_tensor("t", "x");
        let n = 200_000;
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        for _ in 0..n {
            let x = f64::from(rng.gaussian());
            sum += x;
            squares += x * x;
        }
        assert!((sum / f64::from(n)).abs() < 0.01);
        assert!((squares / f64::from(n) - 1.0).abs() < 0.01);
    }
}
