//! Reused, huge-page-advised buffers under one byte budget: the memory contract of `--memory`.
//!
//! First touch of fresh memory is the slowest step of a conversion (1.5 GB/s with 4 KiB pages), so buffers are kept and
//! handed out again. What is handed out plus what is kept never exceeds the budget. A tile takes all its buffers in one
//! [`BufferPool::take`]: it gets all of them or waits, first come first served, so that no two tiles can block each other
//! half-served and a large tile is not starved by small ones.
//!
//! A thread that holds buffers must not take more before it returns them, or it may wait for itself.

use crate::error::{Class, Error, Result};
use rustix::mm::{MapFlags, ProtFlags};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Code of the error that waiters get after [`BufferPool::abort`]: the consequence of another error, never a cause.
pub const ABORTED: &str = "aborted";

/// Size of a huge page on x86-64 and on aarch64 with 4 KiB base pages, in bytes.
const HUGE: usize = 2 << 20;

/// The smallest buffer, in bytes: the largest base page that Linux uses (aarch64).
const SMALLEST: usize = 64 << 10;

/// The capacity of the buffer that serves a request of `len` bytes: at most a quarter more (64 KiB at least), in few
/// distinct sizes, so that returned buffers fit later requests. Budgets count capacities.
pub fn class_size(len: usize) -> Option<usize> {
    if len == 0 {
        return Some(0);
    }
    let step = ((len.checked_next_power_of_two()? / 2).max(1) / 4).max(SMALLEST);
    len.checked_next_multiple_of(step)
}

/// A private anonymous mapping. Invariant: `ptr` is the start of `cap` mapped, readable and writable bytes that this
/// value alone owns; `cap` is a multiple of 64 KiB, or 0 without a mapping.
#[derive(Debug)]
struct Region {
    ptr: NonNull<u8>,
    cap: usize,
}

#[expect(
    unsafe_code,
    reason = "a Region owns its memory alone, like a Box<[u8]>, so it may move between threads"
)]
// SAFETY: see the reason; nothing is tied to the thread that mapped it.
unsafe impl Send for Region {}
#[expect(unsafe_code, reason = "shared access to a Region only reads plain bytes")]
// SAFETY: writing needs `&mut Region`.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `cap` zeroed bytes, aligned to 2 MiB when there are that many.
    fn map(cap: usize) -> rustix::io::Result<Self> {
        if cap == 0 {
            return Ok(Self { ptr: NonNull::dangling(), cap });
        }
        let align = if cap >= HUGE { HUGE } else { 1 };
        let total = cap.checked_add(align - 1).ok_or(rustix::io::Errno::NOMEM)?.next_multiple_of(SMALLEST);
        #[expect(
            unsafe_code,
            reason = "mmap is the way to memory that the kernel zeroes lazily and in huge pages"
        )]
        // SAFETY: a null hint without MAP_FIXED never touches an existing mapping.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                total,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let lead = base.addr().next_multiple_of(align) - base.addr();
        let tail = total - lead - cap;
        let start = base.wrapping_byte_add(lead);
        for (from, len) in [(base, lead), (start.wrapping_byte_add(cap), tail)] {
            if len > 0 {
                #[expect(unsafe_code, reason = "trims an over-long mapping to its aligned part")]
                // SAFETY: both ranges are page-aligned parts of the fresh mapping (sizes are multiples of the largest
                // base page, `base` is page-aligned, `start` is `align`-aligned), disjoint from `start..start + cap`, and
                // nothing refers to them. A failure only leaves them mapped.
                let _ = unsafe { rustix::mm::munmap(from, len) };
            }
        }
        #[cfg(target_os = "linux")]
        if cap >= HUGE {
            #[expect(unsafe_code, reason = "huge pages make the first touch five times as fast")]
            // SAFETY: the range is ours; the advice changes no content. A kernel without huge pages refuses, harmlessly.
            let _ = unsafe { rustix::mm::madvise(start, cap, rustix::mm::Advice::LinuxHugepage) };
        }
        let ptr = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { ptr, cap })
    }

    fn bytes(&self) -> &[u8] {
        #[expect(unsafe_code, reason = "views the owned mapping as a slice")]
        // SAFETY: by the invariant `cap` bytes from `ptr` are mapped and owned; the kernel initialised them to zero, and
        // they were only written through slices since. A dangling `ptr` comes with length 0.
        unsafe {
            std::slice::from_raw_parts(self.ptr.as_ptr(), self.cap)
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        #[expect(unsafe_code, reason = "views the owned mapping as a slice")]
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.cap)
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.cap > 0 {
            #[expect(unsafe_code, reason = "returns the mapping to the kernel")]
            // SAFETY: by the invariant the range is a mapping that only this value refers to, and it ends here.
            let _ = unsafe { rustix::mm::munmap(self.ptr.as_ptr().cast(), self.cap) };
        }
    }
}

#[derive(Debug, Default)]
struct State {
    outstanding: usize,
    peak: usize,
    cached: usize,
    cache: BTreeMap<usize, Vec<Region>>,
    next_ticket: u64,
    serving: u64,
    aborted: bool,
}

impl State {
    /// Unmaps kept buffers, the largest first, until outstanding and kept bytes fit the budget.
    fn evict(&mut self, budget: usize) {
        while self.outstanding + self.cached > budget {
            let Some(mut entry) = self.cache.last_entry() else {
                break;
            };
            if entry.get_mut().pop().is_some() {
                self.cached -= *entry.key();
            }
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }
}

#[derive(Debug)]
struct Shared {
    budget: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock with the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool. Clones share one budget.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

impl BufferPool {
    /// A pool that maps at most `budget` bytes at a time.
    pub fn new(budget: usize) -> Self {
        let state = Mutex::new(State::default());
        Self { shared: Arc::new(Shared { budget, state, changed: Condvar::new() }) }
    }

    /// The budget in bytes.
    pub fn budget(&self) -> usize {
        self.shared.budget
    }

    /// Capacity handed out now, in bytes.
    pub fn outstanding(&self) -> usize {
        self.shared.lock().outstanding
    }

    /// The most capacity that was ever handed out at once, in bytes.
    pub fn peak(&self) -> usize {
        self.shared.lock().peak
    }

    /// One buffer of each of the lengths `lens` (bytes), all of them at once; waits until they fit the budget. Contents are
    /// arbitrary: zeros or what an earlier user left. Starts are aligned to 2 MiB from that size on, to a page below.
    ///
    /// # Errors
    /// Class Usage, code `memory-budget`: together they can never fit. Class Interrupted, code `aborted`: the pool was
    /// aborted. Class Io, code `out-of-memory`: the kernel gives no memory.
    pub fn take(&self, lens: &[usize]) -> Result<Buffers> {
        let shared = &self.shared;
        let classes: Option<Vec<usize>> = lens.iter().map(|&len| class_size(len)).collect();
        let need = classes.as_ref().and_then(|c| c.iter().try_fold(0usize, |sum, &c| sum.checked_add(c)));
        let (classes, need) = match (classes, need) {
            (Some(classes), Some(need)) if need <= shared.budget => (classes, need),
            (_, need) => {
                return Err(Error::usage("memory-budget", "the memory budget cannot hold one tile")
                    .expected(format!("a budget of {} bytes or more", need.unwrap_or(usize::MAX)))
                    .found(format!("{} bytes", shared.budget))
                    .fix("raise --memory"));
            }
        };
        let mut state = shared.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        while !state.aborted && (state.serving != ticket || state.outstanding + need > shared.budget) {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.aborted {
            return Err(Error::new(Class::Interrupted, ABORTED, "the work was stopped"));
        }
        state.serving += 1;
        let taken = fill(&mut state, shared.budget, &classes, need);
        drop(state);
        shared.changed.notify_all();
        let regions = taken.map_err(|e| {
            Error::new(Class::Io, "out-of-memory", "the system gives no more memory")
                .expected(format!("{need} bytes"))
                .found(std::io::Error::from(e))
                .fix("lower --memory, or free memory and run the same command again")
        })?;
        Ok(Buffers { regions, lens: lens.to_vec(), shared: Arc::clone(shared) })
    }

    /// Wakes every waiter with an error and refuses every later [`Self::take`]: the run failed or was interrupted.
    pub fn abort(&self) {
        self.shared.lock().aborted = true;
        self.shared.changed.notify_all();
    }
}

fn fill(state: &mut State, budget: usize, classes: &[usize], need: usize) -> rustix::io::Result<Vec<Region>> {
    let mut regions = Vec::with_capacity(classes.len());
    for &class in classes {
        let kept = state.cache.get_mut(&class).and_then(Vec::pop);
        if let Some(region) = &kept {
            state.cached -= region.cap;
        }
        regions.push(kept);
    }
    state.outstanding += need;
    state.evict(budget);
    // Mapping under the lock keeps the sum exact; it is lazy, so it is quick.
    let filled = regions
        .into_iter()
        .zip(classes)
        .map(|(region, &class)| region.map_or_else(|| Region::map(class), Ok))
        .collect::<rustix::io::Result<Vec<_>>>();
    match filled {
        Ok(_) => state.peak = state.peak.max(state.outstanding),
        Err(_) => state.outstanding -= need,
    }
    filled
}

/// The buffers of one tile; they return to the pool when dropped.
#[derive(Debug)]
pub struct Buffers {
    regions: Vec<Region>,
    lens: Vec<usize>,
    shared: Arc<Shared>,
}

impl Buffers {
    /// How many buffers.
    pub fn count(&self) -> usize {
        self.regions.len()
    }

    /// Buffer `index` with exactly the length that was asked for; empty when there is none.
    pub fn get(&self, index: usize) -> &[u8] {
        match (self.regions.get(index), self.lens.get(index)) {
            (Some(region), Some(&len)) => region.bytes().get(..len).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Buffer `index` for writing; empty when there is none.
    pub fn get_mut(&mut self, index: usize) -> &mut [u8] {
        match (self.regions.get_mut(index), self.lens.get(index)) {
            (Some(region), Some(&len)) => region.bytes_mut().get_mut(..len).unwrap_or_default(),
            _ => &mut [],
        }
    }

    /// All buffers for writing at the same time, in the order asked for.
    pub fn slices_mut(&mut self) -> Vec<&mut [u8]> {
        self.regions
            .iter_mut()
            .zip(&self.lens)
            .map(|(region, &len)| region.bytes_mut().get_mut(..len).unwrap_or_default())
            .collect()
    }

    /// All buffers for writing at the same time, when there are exactly `N`.
    pub fn array_mut<const N: usize>(&mut self) -> Option<[&mut [u8]; N]> {
        self.slices_mut().try_into().ok()
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        for region in self.regions.drain(..) {
            state.outstanding -= region.cap;
            if region.cap > 0 && !state.aborted {
                state.cached += region.cap;
                state.cache.entry(region.cap).or_default().push(region);
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn classes_are_few_and_never_waste_more_than_a_quarter() {
        assert_eq!(class_size(0), Some(0));
        assert_eq!(class_size(1), Some(SMALLEST));
        assert_eq!(class_size(HUGE), Some(HUGE));
        assert_eq!(class_size(HUGE + 1), Some(HUGE + HUGE / 4));
        assert_eq!(class_size(usize::MAX), None);
        let mut classes = std::collections::BTreeSet::new();
        for len in (1..64 << 20).step_by(10_007) {
            let class = class_size(len).unwrap();
            assert!(class >= len && class.is_multiple_of(SMALLEST));
            assert!(class - len < SMALLEST || (class - len) * 4 <= len, "{len} {class}");
            assert_eq!(class_size(class), Some(class));
            classes.insert(class);
        }
        assert!(classes.len() < 48, "{}", classes.len());
    }

    #[test]
    fn buffers_have_the_asked_length_are_aligned_zeroed_and_reused() {
        let pool = BufferPool::new(64 << 20);
        let mut buffers = pool.take(&[5 << 20, 100, 0, HUGE]).unwrap();
        let [a, b, c, d] = buffers.array_mut::<4>().unwrap();
        assert_eq!((a.len(), b.len(), c.len(), d.len()), (5 << 20, 100, 0, HUGE));
        assert!(a.as_ptr().addr().is_multiple_of(HUGE) && d.as_ptr().addr().is_multiple_of(HUGE));
        assert!(b.as_ptr().addr().is_multiple_of(4096));
        assert!(a.iter().chain(b.iter()).chain(d.iter()).all(|&x| x == 0));
        a.fill(1);
        d.fill(2);
        b.fill(3);
        assert!(a.iter().all(|&x| x == 1) && d.iter().all(|&x| x == 2));
        let address = a.as_ptr().addr();
        assert!(buffers.array_mut::<3>().is_none());
        assert_eq!((buffers.count(), buffers.get(1)[99], buffers.get(9).len()), (4, 3, 0));
        drop(buffers);
        assert_eq!(pool.outstanding(), 0);
        let again = pool.take(&[5 << 20]).unwrap();
        assert_eq!(again.get(0).as_ptr().addr(), address);
        assert_eq!(again.get(0)[(5 << 20) - 1], 1);
    }

    #[test]
    fn more_than_the_budget_is_an_error_and_not_a_hang() {
        let pool = BufferPool::new(8 << 20);
        for lens in [&[9 << 20][..], &[5 << 20, 4 << 20], &[usize::MAX], &[usize::MAX / 2, usize::MAX / 2, 9]]
        {
            let error = pool.take(lens).unwrap_err();
            assert_eq!((error.code(), error.class()), ("memory-budget", Class::Usage));
        }
        assert_eq!(pool.take(&[8 << 20]).unwrap().count(), 1);
    }

    #[test]
    fn kept_buffers_of_other_sizes_make_room() {
        let pool = BufferPool::new(8 << 20);
        drop(pool.take(&[4 << 20, 4 << 20]).unwrap());
        let state = pool.shared.lock();
        assert_eq!((state.cached, state.outstanding), (8 << 20, 0));
        drop(state);
        let held = pool.take(&[3 << 20]).unwrap();
        let state = pool.shared.lock();
        assert_eq!((state.cached, state.outstanding), (4 << 20, 3 << 20));
        drop(state);
        drop(held);
    }

    #[test]
    fn threads_never_exceed_the_budget_and_never_share_a_byte() {
        const BUDGET: usize = 12 << 20;
        let pool = BufferPool::new(BUDGET);
        let held = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for id in 0..8u8 {
                let (pool, held) = (&pool, &held);
                scope.spawn(move || {
                    for round in 0..60usize {
                        let lens =
                            [1 + (round * 7919 + usize::from(id) * 104_729) % (5 << 20), 70_000, round];
                        let mut buffers = pool.take(&lens).unwrap();
                        let capacity: usize = lens.iter().map(|&l| class_size(l).unwrap()).sum();
                        assert!(held.fetch_add(capacity, Ordering::SeqCst) + capacity <= BUDGET);
                        for slice in buffers.slices_mut() {
                            slice.iter_mut().step_by(4096).for_each(|b| *b = id);
                        }
                        {
                            let state = pool.shared.lock();
                            assert!(state.outstanding + state.cached <= BUDGET);
                            let kept: usize =
                                state.cache.iter().map(|(class, kept)| class * kept.len()).sum();
                            assert_eq!(kept, state.cached);
                        }
                        std::thread::yield_now();
                        for index in 0..3 {
                            assert!(buffers.get(index).iter().step_by(4096).all(|&b| b == id));
                        }
                        held.fetch_sub(capacity, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(pool.outstanding(), 0);
        // Threads may run one after the other: then the peak is the largest single request.
        assert!(pool.peak() <= BUDGET && pool.peak() >= 1 << 20);
    }

    #[test]
    fn a_large_request_is_not_starved_by_small_ones() {
        let pool = BufferPool::new(4 << 20);
        let first = pool.take(&[2 << 20]).unwrap();
        std::thread::scope(|scope| {
            let large = scope.spawn(|| pool.take(&[4 << 20]).map(drop));
            while pool.shared.lock().next_ticket < 2 {
                std::thread::yield_now();
            }
            // It fits the budget now, but the large request came first.
            let small = scope.spawn(|| pool.take(&[1 << 20]).map(drop));
            std::thread::sleep(Duration::from_millis(30));
            assert!(!small.is_finished() && !large.is_finished());
            drop(first);
            large.join().unwrap().unwrap();
            small.join().unwrap().unwrap();
        });
    }

    #[test]
    fn abort_wakes_waiters_and_refuses_later_requests() {
        let pool = BufferPool::new(1 << 20);
        let held = pool.take(&[1 << 20]).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.take(&[1]).map(drop));
            while pool.shared.lock().next_ticket < 2 {
                std::thread::yield_now();
            }
            pool.abort();
            assert_eq!(waiter.join().unwrap().unwrap_err().code(), "aborted");
        });
        drop(held);
        assert_eq!(pool.take(&[1]).unwrap_err().code(), "aborted");
    }
}
