//! One body, compiled once per instruction set.
//!
//! A kernel is a [`Body`]: plain Rust, inlined into a wrapper that enables the features of an instruction set, so that
//! the compiler vectorizes it for that set. Rust never contracts a multiplication and an addition, so every wrapper
//! computes the same bits.

use crate::error::{Error, Result};
use std::sync::OnceLock;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// What every processor of the architecture has (x86-64: SSE2).
    Baseline,
    /// AVX2 with BMI, LZCNT and POPCNT.
    Avx2,
    /// AVX-512 F, BW, CD, DQ and VL, on top of AVX2.
    Avx512,
    /// Arm Advanced SIMD, which every AArch64 processor has.
    Neon,
}

impl Isa {
    /// Every instruction set, slowest first within an architecture.
    pub const ALL: [Isa; 4] = [Isa::Baseline, Isa::Avx2, Isa::Avx512, Isa::Neon];

    /// The fastest instruction set of this processor; asked once.
    pub fn detect() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Isa::Baseline))
    }

    /// The instruction sets of this processor, slowest first; never empty.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The instruction set to use: `SILICAST_ISA` where it is set, else the fastest.
    pub fn chosen() -> Isa {
        Self::from_environment().ok().flatten().unwrap_or_else(Self::detect)
    }

    /// Refuses a `SILICAST_ISA` that names no instruction set of this processor.
    pub fn check_environment() -> Result<()> {
        Self::from_environment().map(|_| ())
    }

    fn from_environment() -> Result<Option<Isa>> {
        let Some(name) = std::env::var_os("SILICAST_ISA") else { return Ok(None) };
        match name.to_str().and_then(Self::from_name).filter(|isa| isa.is_available()) {
            Some(isa) => Ok(Some(isa)),
            None => {
                let names: Vec<&str> = Self::available().iter().map(|isa| isa.name()).collect();
                Err(Error::usage("isa", "SILICAST_ISA names no instruction set of this processor")
                    .expected(names.join(", "))
                    .found(name.display())
                    .fix("unset SILICAST_ISA: it is for tests, and bytes never depend on it"))
            }
        }
    }

    /// Whether this processor has the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::has_avx512(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
            Isa::Neon => cfg!(target_arch = "aarch64"),
        }
    }

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Baseline => "baseline",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// The instruction set of a name.
    pub fn from_name(name: &str) -> Option<Isa> {
        Self::ALL.into_iter().find(|isa| isa.name() == name)
    }
}

/// Work to compile for each instruction set.
pub trait Body {
    /// What the work returns.
    type Out;

    /// Does the work. Implementations and what they call in loops are `#[inline(always)]`: only inlined code is
    /// compiled with the features of the wrapper.
    fn run(self) -> Self::Out;
}

/// Runs `body` compiled for `isa`, or for the baseline where this processor lacks `isa`.
pub fn dispatch<K: Body>(isa: Isa, body: K) -> K::Out {
    #[cfg(target_arch = "x86_64")]
    if isa.is_available() {
        match isa {
            Isa::Avx2 => return x86::run_avx2(body),
            Isa::Avx512 => return x86::run_avx512(body),
            Isa::Baseline | Isa::Neon => {}
        }
    }
    // AArch64's baseline is Neon.
    let _ = isa;
    body.run()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Body;

    macro_rules! wrapper {
        ($run:ident, $has:ident, $wrapped:ident, $features:literal, [$($feature:tt),*]) => {
            pub(super) fn $has() -> bool {
                $(std::arch::is_x86_feature_detected!($feature))&&*
            }

            #[target_feature(enable = $features)]
            fn $wrapped<K: Body>(body: K) -> K::Out {
                body.run()
            }

            pub(super) fn $run<K: Body>(body: K) -> K::Out {
                assert!($has(), "dispatch checks the processor");
                #[expect(unsafe_code, reason = "the features that the callee is compiled with were just detected")]
                // SAFETY: the only requirement of a `target_feature` function is that the processor has the features.
                unsafe {
                    $wrapped(body)
                }
            }
        };
    }

    wrapper!(
        run_avx2,
        has_avx2,
        wrapped_avx2,
        "avx2,bmi1,bmi2,lzcnt,popcnt",
        ["avx2", "bmi1", "bmi2", "lzcnt", "popcnt"]
    );
    wrapper!(
        run_avx512,
        has_avx512,
        wrapped_avx512,
        "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,bmi1,bmi2,lzcnt,popcnt",
        [
            "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "bmi1", "bmi2", "lzcnt",
            "popcnt"
        ]
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum<'a>(&'a [u32]);

    impl Body for Sum<'_> {
        type Out = u32;

        #[inline(always)]
        fn run(self) -> u32 {
            self.0.iter().sum()
        }
    }

    #[test]
    fn every_instruction_set_runs_or_falls_back() {
        let data: Vec<u32> = (0..1000).collect();
        for isa in Isa::ALL {
            assert_eq!(dispatch(isa, Sum(&data)), 499_500, "{}", isa.name());
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert!(Isa::available().contains(&Isa::detect()));
        assert_eq!(Isa::available().first(), Some(&Isa::Baseline));
        assert_eq!(Isa::from_name("mmx"), None);
    }
}
