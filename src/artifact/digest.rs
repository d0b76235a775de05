//! Digests of files: BLAKE3 always, SHA-256 where it is asked for.

use crate::error::Result;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// Lower-case hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|&b| [digit(b >> 4), digit(b)]).collect()
}

/// Whether `text` is a 256-bit digest as [`hex`] writes it.
pub fn is_hex_256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A running SHA-256 (FIPS 180-4).
#[derive(Clone, Debug, Default)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest in hexadecimal.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// What identifies the content of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 in hexadecimal.
    pub blake3: String,
    /// SHA-256 in hexadecimal, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A running [`FileDigest`].
#[derive(Clone, Debug)]
pub struct Digester {
    bytes: u64,
    blake3: blake3::Hasher,
    sha256: Option<Sha256>,
}

impl Digester {
    /// Of nothing yet, with SHA-256 if `sha256`.
    pub fn new(sha256: bool) -> Self {
        Self { bytes: 0, blake3: blake3::Hasher::new(), sha256: sha256.then(Sha256::new) }
    }

    /// Appends `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.blake3.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// The digest of everything appended.
    pub fn finish(self) -> FileDigest {
        FileDigest {
            bytes: self.bytes,
            blake3: self.blake3.finalize().to_hex().to_string(),
            sha256: self.sha256.map(Sha256::finish),
        }
    }
}

/// The digest of `len` bytes that `read(offset, buffer)` fills in order, through `buffer`.
///
/// # Errors
/// Whatever `read` fails with.
pub fn digest_of(
    len: u64,
    sha256: bool,
    buffer: &mut [u8],
    mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<FileDigest> {
    let mut digester = Digester::new(sha256);
    while digester.bytes < len && !buffer.is_empty() {
        let step = usize::try_from(len - digester.bytes).unwrap_or(usize::MAX).min(buffer.len());
        let part = &mut buffer[..step];
        read(digester.bytes, part)?;
        digester.update(part);
    }
    Ok(digester.finish())
}

/// SHA-256 of `len` bytes that `read(offset, buffer)` fills in order.
///
/// # Errors
/// Whatever `read` fails with.
pub fn sha256_of(len: u64, mut read: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    let mut at = 0;
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(usize::MAX).min(buffer.len());
        read(at, &mut buffer[..step])?;
        hash.update(&buffer[..step]);
        at += step as u64;
    }
    Ok(hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    // FIPS 180-4 example "abc"; the BLAKE3 value is the published hash of the empty input.
    const SHA_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const BLAKE3_EMPTY: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn published_vectors() {
        let mut sha = Sha256::new();
        sha.update(b"a");
        sha.update(b"bc");
        assert_eq!(sha.finish(), SHA_ABC);
        assert_eq!(
            Digester::new(false).finish(),
            FileDigest { bytes: 0, blake3: BLAKE3_EMPTY.into(), sha256: None }
        );
        assert!(is_hex_256(SHA_ABC) && !is_hex_256(&SHA_ABC.to_uppercase()) && !is_hex_256(&SHA_ABC[1..]));
    }

    #[test]
    fn reading_in_small_steps_digests_the_whole() {
        let data: Vec<u8> = (0..100_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let mut buffer = [0; 1000];
        let read = digest_of(data.len() as u64, true, &mut buffer, |offset, out| {
            let at = usize::try_from(offset).unwrap();
            out.copy_from_slice(&data[at..at + out.len()]);
            Ok(())
        })
        .unwrap();
        assert_eq!(read.blake3, blake3::hash(&data).to_hex().to_string());
        assert_eq!(read.sha256, Some(hex(&sha2::Sha256::digest(&data))));
        assert_eq!(read.bytes, 100_000);
    }
}
