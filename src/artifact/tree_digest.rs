//! The BLAKE3 digest of a file whose pieces are hashed in any order, while they are still in the cache.
//!
//! BLAKE3 is a binary tree over 1 KiB chunks: of `n` bytes, the left child holds the largest power of two below `n`, the
//! right child the rest. The chaining value of a node depends on its bytes and offset only, so a worker can hash the
//! nodes that lie inside its tile, and only the nodes that straddle tiles have to be read again at the end.
//!
//! The result is the plain BLAKE3 of the file. Pieces that are added twice must hold the same bytes.

use super::digest::hex;
use crate::error::{Error, Result};
use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nodes are not split below this many bytes: enough for every SIMD width, and small beside a tile.
const LEAF: u64 = 64 << 10;

/// Bytes read at a time when a hole is filled.
const READ: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
struct Node {
    len: u64,
    value: ChainingValue,
}

/// The digest in work; pieces may come from many threads.
#[derive(Debug)]
pub struct TreeDigest {
    len: u64,
    // Known nodes by offset; they never overlap, and two siblings are merged at once.
    nodes: Mutex<BTreeMap<u64, Node>>,
}

impl TreeDigest {
    /// For a file of `len` bytes.
    pub fn new(len: u64) -> Self {
        Self { len, nodes: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes the piece `bytes` at `offset` as far as its nodes are complete.
    ///
    /// # Errors
    /// Class Internal: the piece reaches past the end of the file.
    pub fn add(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= self.len).ok_or_else(|| {
            Error::internal("digest-range", "a piece of a file reaches past its end")
                .expected(format!("at most {} bytes", self.len))
                .found(format!("{} bytes at {offset}", bytes.len()))
        })?;
        let mut hashed = Vec::new();
        hash_inside(0, self.len, true, offset, end, bytes, &mut hashed);
        let mut nodes = self.lock();
        for (at, node) in hashed {
            insert(&mut nodes, self.len, at, node);
        }
        Ok(())
    }

    /// Bytes that [`Self::finish`] would have to read.
    pub fn missing(&self) -> u64 {
        self.len - self.lock().values().map(|n| n.len).sum::<u64>()
    }

    /// The BLAKE3 of the file in hexadecimal. `read(offset, buffer)` fills the buffer from the file; it is called only for
    /// what no piece covered, at most 1 MiB at a time.
    ///
    /// # Errors
    /// Whatever `read` fails with.
    pub fn finish(&self, mut read: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<String> {
        let nodes = self.lock();
        let mut buffer = Vec::new();
        if nodes.is_empty() || self.len <= LEAF {
            let hasher = hash_hole(0, self.len, &mut buffer, &mut read)?;
            return Ok(hex(hasher.finalize().as_bytes()));
        }
        let left = left_subtree_len(self.len);
        let left_value = value_of(&nodes, 0, left, &mut buffer, &mut read)?;
        let right_value = value_of(&nodes, left, self.len - left, &mut buffer, &mut read)?;
        Ok(hex(merge_subtrees_root(&left_value, &right_value, Mode::Hash).as_bytes()))
    }
}

/// Hashes the largest nodes of the tree over `at..at + len` that lie inside the piece `start..end`. The root has no
/// chaining value: its digest is made at the end.
fn hash_inside(
    at: u64,
    len: u64,
    root: bool,
    start: u64,
    end: u64,
    bytes: &[u8],
    out: &mut Vec<(u64, Node)>,
) {
    if end <= at || start >= at + len || start == end {
        return;
    }
    let inside = start <= at && at + len <= end;
    if inside && !root {
        let from = usize::try_from(at - start).unwrap_or(usize::MAX);
        let to = usize::try_from(at + len - start).unwrap_or(usize::MAX);
        if let Some(part) = bytes.get(from..to) {
            let value = Hasher::new().set_input_offset(at).update(part).finalize_non_root();
            out.push((at, Node { len, value }));
        }
    } else if len > LEAF {
        let left = left_subtree_len(len);
        hash_inside(at, left, false, start, end, bytes, out);
        hash_inside(at + left, len - left, false, start, end, bytes, out);
    }
}

/// Stores a node and merges it with its sibling, and that parent with its sibling, as far as they are known.
fn insert(nodes: &mut BTreeMap<u64, Node>, file_len: u64, at: u64, node: Node) {
    let end = at + node.len;
    if nodes.range(..=at).next_back().is_some_and(|(&o, n)| o + n.len >= end) {
        return; // Known already, as part of a larger node or as itself.
    }
    // Smaller nodes inside this one, from a piece that was added before.
    while let Some((&inner, _)) = nodes.range(at..end).next() {
        nodes.remove(&inner);
    }
    nodes.insert(at, node);
    // The way from the root to the node; the root itself is never merged here.
    let mut path = Vec::new();
    let (mut o, mut n) = (0, file_len);
    while (o, n) != (at, node.len) && n > LEAF {
        path.push((o, n));
        let left = left_subtree_len(n);
        (o, n) = if at < o + left { (o, left) } else { (o + left, n - left) };
    }
    for &(o, n) in path.iter().skip(1).rev() {
        let left_len = left_subtree_len(n);
        let (Some(left), Some(right)) = (nodes.get(&o), nodes.get(&(o + left_len))) else {
            break;
        };
        if left.len != left_len || right.len != n - left_len {
            break;
        }
        let value = merge_subtrees_non_root(&left.value, &right.value, Mode::Hash);
        nodes.remove(&(o + left_len));
        nodes.insert(o, Node { len: n, value });
    }
}

/// The chaining value of a node that is not the root, from known nodes and read bytes.
fn value_of(
    nodes: &BTreeMap<u64, Node>,
    at: u64,
    len: u64,
    buffer: &mut Vec<u8>,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<ChainingValue> {
    let known = nodes.range(at..at + len).next();
    match known {
        Some((&o, node)) if o == at && node.len == len => Ok(node.value),
        Some(_) if len > LEAF => {
            let left = left_subtree_len(len);
            let left_value = value_of(nodes, at, left, buffer, read)?;
            let right_value = value_of(nodes, at + left, len - left, buffer, read)?;
            Ok(merge_subtrees_non_root(&left_value, &right_value, Mode::Hash))
        }
        _ => Ok(hash_hole(at, len, buffer, read)?.finalize_non_root()),
    }
}

fn hash_hole(
    at: u64,
    len: u64,
    buffer: &mut Vec<u8>,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Hasher> {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(at);
    let mut done = 0;
    while done < len {
        let step = usize::try_from(len - done).unwrap_or(READ).min(READ);
        if buffer.len() < step {
            buffer.resize(step, 0);
        }
        read(at + done, &mut buffer[..step])?;
        hasher.update(&buffer[..step]);
        done += step as u64;
    }
    Ok(hasher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ len as u64;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect()
    }

    /// The digest, and how many bytes were read for it.
    fn finish(tree: &TreeDigest, data: &[u8]) -> (String, u64) {
        let mut read = 0;
        let digest = tree
            .finish(|offset, out| {
                let at = usize::try_from(offset).unwrap();
                out.copy_from_slice(&data[at..at + out.len()]);
                read += out.len() as u64;
                Ok(())
            })
            .unwrap();
        (digest, read)
    }

    fn lengths() -> Vec<usize> {
        let mut all = vec![0, 1, 1023, 1024, 1025, 2047, 2048, 2049, 3073];
        for base in [64 << 10, 128 << 10, 192 << 10, 1 << 20, (1 << 20) + (64 << 10), 3 << 20] {
            all.extend([
                base - 1025,
                base - 1024,
                base - 1,
                base,
                base + 1,
                base + 1023,
                base + 1024,
                base + 1025,
            ]);
        }
        all
    }

    #[test]
    fn equals_blake3_whole_untouched_and_in_pieces() {
        for len in lengths() {
            let data = data(len);
            let expected = blake3::hash(&data).to_hex().to_string();
            assert_eq!(finish(&TreeDigest::new(len as u64), &data), (expected.clone(), len as u64), "{len}");
            let whole = TreeDigest::new(len as u64);
            whole.add(0, &data).unwrap();
            let (digest, read) = finish(&whole, &data);
            assert_eq!(digest, expected, "{len}");
            assert_eq!(read, if len as u64 <= LEAF { len as u64 } else { 0 }, "{len}");
            for step in [1000, LEAF as usize, 100_000, 300_000] {
                let tree = TreeDigest::new(len as u64);
                let mut pieces: Vec<_> = data.chunks(step).enumerate().collect();
                pieces.reverse();
                for (i, piece) in pieces {
                    tree.add((i * step) as u64, piece).unwrap();
                }
                assert_eq!(
                    tree.missing(),
                    if len as u64 <= LEAF { len as u64 } else { finish(&tree, &data).1 }
                );
                assert_eq!(finish(&tree, &data).0, expected, "{len} by {step}");
            }
        }
    }

    #[test]
    fn aligned_pieces_need_no_reading_and_merge_to_few_nodes() {
        let len = 16 << 20;
        let data = data(len);
        let tree = TreeDigest::new(len as u64);
        for i in (0..16).map(|i| (i * 7) % 16) {
            tree.add((i << 20) as u64, &data[i << 20..(i + 1) << 20]).unwrap();
        }
        assert_eq!(tree.lock().len(), 2);
        assert_eq!(finish(&tree, &data), (blake3::hash(&data).to_hex().to_string(), 0));
    }

    #[test]
    fn unaligned_pieces_reread_less_than_two_leaves_each() {
        let len = 20_000_003;
        let data = data(len);
        let tree = TreeDigest::new(len as u64);
        let step = 2_000_001;
        let pieces = data.chunks(step).count() as u64;
        for (i, piece) in data.chunks(step).enumerate() {
            tree.add((i * step) as u64, piece).unwrap();
        }
        let (digest, read) = finish(&tree, &data);
        assert_eq!(digest, blake3::hash(&data).to_hex().to_string());
        assert!(read <= pieces * LEAF, "{read}");
    }

    #[test]
    fn a_wrong_byte_in_a_piece_shows() {
        let data = data(1 << 20);
        let tree = TreeDigest::new(data.len() as u64);
        let mut wrong = data.clone();
        wrong[777_777] ^= 1;
        tree.add(0, &wrong).unwrap();
        assert_eq!(finish(&tree, &data).0, blake3::hash(&wrong).to_hex().to_string());
    }

    #[test]
    fn pieces_past_the_end_are_refused_and_read_errors_pass_through() {
        let tree = TreeDigest::new(100);
        assert_eq!(tree.add(50, &[0; 51]).unwrap_err().code(), "digest-range");
        assert_eq!(tree.add(u64::MAX, &[0; 2]).unwrap_err().code(), "digest-range");
        tree.add(100, &[]).unwrap();
        let error = tree.finish(|_, _| Err(Error::input("x", "x"))).unwrap_err();
        assert_eq!(error.code(), "x");
    }

    #[test]
    fn threads_add_concurrently() {
        let data = data((8 << 20) + 12_345);
        let tree = TreeDigest::new(data.len() as u64);
        std::thread::scope(|scope| {
            for t in 0..4 {
                let (tree, data) = (&tree, &data);
                scope.spawn(move || {
                    for (i, piece) in data.chunks(333_333).enumerate().filter(|(i, _)| i % 4 == t) {
                        tree.add((i * 333_333) as u64, piece).unwrap();
                    }
                });
            }
        });
        assert_eq!(finish(&tree, &data).0, blake3::hash(&data).to_hex().to_string());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_pieces_in_any_order_with_gaps_and_overlaps(
            len in 1usize..1_500_000,
            pieces in prop::collection::vec((0.0f64..1.0, 0.0f64..0.6), 0..24),
        ) {
            let data = data(len);
            let tree = TreeDigest::new(len as u64);
            for (start, size) in pieces {
                let start = (start * len as f64) as usize;
                let end = (start + (size * len as f64) as usize).min(len);
                tree.add(start as u64, &data[start..end]).unwrap();
            }
            prop_assert_eq!(finish(&tree, &data).0, blake3::hash(&data).to_hex().to_string());
        }
    }
}
