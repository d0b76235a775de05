//! Executes a plan: tiles in, tiles out, every byte at the place that the plan fixed.
//!
//! Workers of a private pool take tiles from the [`schedule`], admitted by the memory budget. A finished tile gets a line
//! in the [`journal`], with a hash of its bytes; a resumed run believes a line only when the bytes on disk still have
//! that hash. Files are hashed while they are read and written, so nothing is read twice but the few bytes at the edges
//! of tiles. What a slice has finished is recorded in one small file ([`done`]); `finalize` needs nothing else.

pub mod done;
mod evaluate;
pub mod finalize;
pub mod journal;
mod load;
pub mod schedule;
mod shards;
mod sources;
pub mod stats;
mod store;
pub mod weight_slices;

use crate::artifact::digest::FileDigest;
use crate::checkpoint::Checkpoint;
use crate::error::{Class, Error, Result};
use crate::io::buffer_pool::{self, BufferPool};
use crate::io::output::OutputDir;
use crate::kernel::{Isa, Policy};
use crate::plan::Plan;
use crate::plan::cost::{self, Task};
use evaluate::Evaluator;
use journal::{Entry, Journal, Mark, Mismatch, Opened, RangeHash, SourceStamp};
use rayon::prelude::*;
use schedule::{Done, Schedule, Tile};
use shards::Shards;
use sources::Sources;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Part `index` (from 1) of `count` of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    index: u32,
    count: u32,
}

impl Slice {
    /// Slice `index` of `count`, when `1 <= index <= count`.
    pub fn new(index: u32, count: u32) -> Option<Slice> {
        (1..=count).contains(&index).then_some(Slice { index, count })
    }

    /// Part, from 1.
    pub fn index(self) -> u32 {
        self.index
    }

    /// Parts.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Which of `sizes` belong to this slice: the largest first, each to the slice that has least so far.
    pub fn select(self, sizes: &[u64]) -> Vec<bool> {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(sizes[*i]), *i));
        let mut load = vec![0u64; self.count as usize];
        let mut mine = vec![false; sizes.len()];
        for i in order {
            let slice = (0..load.len()).min_by_key(|s| (load[*s], *s)).unwrap_or(0);
            load[slice] += sizes[i];
            mine[i] = slice + 1 == self.index as usize;
        }
        mine
    }
}

/// Hears how far the work is; called from worker threads.
pub trait Progress: Sync {
    /// The bytes that will be written, of which `done` are there from an earlier run.
    fn begin(&self, total: u64, done: u64);
    /// Bytes read and written by one tile.
    fn advance(&self, read: u64, written: u64);
}

/// Opens the journal of this run, or begins it, before anything else is written into `dir`.
///
/// # Errors
/// Exit 4 when the source has changed since, exit 2 when the unfinished output belongs to another plan, version or
/// slicing.
pub fn begin(
    dir: &OutputDir,
    checkpoint: &Checkpoint,
    digest: &str,
    slice: Option<Slice>,
) -> Result<(Journal, Vec<Mark>)> {
    let header = journal::Header {
        schema: journal::SCHEMA,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        plan: digest.to_owned(),
        slice: slice.map(|s| (s.index, s.count)),
        sources: source_stamps(checkpoint),
    };
    // Slices of one output share plan and slicing.
    for name in journal::list(dir)? {
        let Some(other) = journal::read_header(dir, &name)? else { continue };
        if other.slice.map(|(_, count)| count) != slice.map(|s| s.count) {
            return Err(Mismatch::Slice.into_error(dir));
        }
        if other.plan != header.plan && other.slice != header.slice {
            return Err(Mismatch::Plan.into_error(dir));
        }
    }
    match Journal::open_or_create(dir, &header)? {
        Opened::Ready(journal, marks) => Ok((journal, marks)),
        Opened::Mismatch(mismatch) => Err(mismatch.into_error(dir)),
    }
}

/// Name and BLAKE3 of every source shard, in order, on `jobs` threads.
pub fn hash_sources(checkpoint: &Checkpoint, jobs: usize) -> Result<Vec<(String, String)>> {
    let sources = Sources::new(checkpoint);
    let files = u32::try_from(checkpoint.files.len()).unwrap_or(u32::MAX);
    thread_pool(jobs)?.install(|| {
        (0..files)
            .into_par_iter()
            .map(|file| {
                let digest = sources.finish(file, false)?;
                Ok((checkpoint.files[file as usize].name.clone(), digest.blake3))
            })
            .collect()
    })
}

fn thread_pool(jobs: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(jobs)
        .thread_name(|i| format!("silicast-{i}"))
        .build()
        .map_err(|e| Error::new(Class::Io, "threads", "cannot start the worker threads").found(e))
}

/// What to execute, and how.
pub struct Job<'a> {
    /// The source.
    pub checkpoint: &'a Checkpoint,
    /// The plan.
    pub plan: &'a Plan,
    /// Its digest.
    pub digest: &'a str,
    /// The folder in work.
    pub dir: &'a OutputDir,
    /// Its journal, from [`begin`].
    pub journal: &'a Journal,
    /// What the journal holds, from [`begin`].
    pub marks: &'a [Mark],
    /// The part to do; all of it when `None`.
    pub slice: Option<Slice>,
    /// Memory budget in bytes.
    pub budget: u64,
    /// Threads.
    pub jobs: usize,
    /// What to do with non-finite values.
    pub policy: Policy,
    /// Whether files get a SHA-256 too.
    pub sha256: bool,
    /// Set by a signal: stop after the tiles in flight.
    pub interrupt: &'a AtomicBool,
    /// Hears how far the work is.
    pub progress: &'a dyn Progress,
}

/// What an execution did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Executed {
    /// Bytes of tensors read by tiles.
    pub read: u64,
    /// Bytes of tensors written by tiles.
    pub written: u64,
    /// Bytes of tensors that an earlier run had finished.
    pub resumed: u64,
}

/// The stamps of the source files, as the journal records them.
pub fn source_stamps(checkpoint: &Checkpoint) -> Vec<SourceStamp> {
    let clip = |ns: i128| i64::try_from(ns).unwrap_or(i64::MAX);
    checkpoint
        .files
        .iter()
        .map(|f| SourceStamp {
            name: f.name.clone(),
            bytes: f.bytes,
            mtime_ns: f.stamp.map_or(0, |s| clip(s.mtime_ns)),
            ctime_ns: f.stamp.map_or(0, |s| clip(s.ctime_ns)),
            inode: f.stamp.map(|s| s.inode),
        })
        .collect()
}

/// Executes the job's slice of the plan, resuming what an earlier run left.
///
/// # Errors
/// Exit 4 for bad values or a changed source, 5 for I/O, 6 when interrupted; the journal is flushed in each case.
pub fn run(job: &Job<'_>) -> Result<Executed> {
    let slice = job.slice.unwrap_or(Slice { index: 1, count: 1 });
    if done::read(job.dir, slice)?.is_some_and(|record| record.plan == job.digest) {
        return Ok(Executed { resumed: written_bytes(job.plan, slice), ..Executed::default() });
    }
    let tasks = cost::tasks(job.plan)?;
    cost::peak_tile_memory(job.plan, &tasks, job.budget, job.jobs as u64)?;
    let pool = thread_pool(job.jobs)?;
    let run = Run {
        job,
        slice,
        tasks: &tasks,
        mine: slice.select(&job.plan.shards.iter().map(|s| s.bytes).collect::<Vec<_>>()),
        sources: Sources::new(job.checkpoint),
        shards: Shards::new(job.dir, job.plan),
        buffers: BufferPool::new(usize::try_from(job.budget).unwrap_or(usize::MAX)),
        journal: job.journal,
        digests: job.plan.shards.iter().map(|_| OnceLock::new()).collect(),
    };
    let outcome = run.execute(&pool, job.marks);
    // Whatever happened, what is finished stays finished.
    let synced = job.journal.sync();
    let executed = outcome?;
    synced?;
    Ok(executed)
}

/// Tensor bytes of a slice.
fn written_bytes(plan: &Plan, slice: Slice) -> u64 {
    let mine = slice.select(&plan.shards.iter().map(|s| s.bytes).collect::<Vec<_>>());
    plan.shards.iter().zip(mine).filter(|(_, mine)| *mine).map(|(s, _)| s.bytes - s.header).sum()
}

struct Run<'a> {
    job: &'a Job<'a>,
    slice: Slice,
    tasks: &'a [Task],
    mine: Vec<bool>,
    sources: Sources<'a>,
    shards: Shards<'a>,
    buffers: BufferPool,
    journal: &'a Journal,
    digests: Vec<OnceLock<FileDigest>>,
}

impl Run<'_> {
    fn execute(&self, pool: &rayon::ThreadPool, marks: &[Mark]) -> Result<Executed> {
        let job = self.job;
        self.check_space()?;
        let done = self.verify_marks(pool, marks)?;
        let mut executed = Executed { resumed: self.count_done(&done), ..Executed::default() };
        job.progress.begin(written_bytes(job.plan, self.slice), executed.resumed);
        let schedule = Schedule::new(job.plan, self.tasks, &done, job.budget, job.jobs as u64, |t| {
            self.mine[t.shard as usize]
        });
        let (read, written) = self.work(pool, &schedule)?;
        executed.read = read;
        executed.written = written;
        let shards = self.finish_shards(pool)?;
        let sources = self.finish_sources(pool)?;
        done::write(job.dir, self.slice, &done::Record { plan: job.digest.to_owned(), shards, sources })?;
        Ok(executed)
    }

    /// Refuses to begin what the disk cannot hold. Shards that are there already have their space reserved.
    fn check_space(&self) -> Result<()> {
        let mut needed = 0;
        for (shard, mine) in self.job.plan.shards.iter().zip(&self.mine) {
            if *mine && self.job.dir.kind_of(&shard.name)?.is_none() {
                needed += shard.bytes;
            }
        }
        let needed = needed + needed / 50;
        let free = self.job.dir.free_bytes()?;
        if needed > free {
            return Err(Error::new(Class::Io, "disk-full", "the output does not fit on the disk")
                .file(self.job.dir.path().display())
                .expected(format!("{needed} free bytes (the output and 2 %)"))
                .found(format!("{free} free bytes"))
                .fix("free space or choose another output folder, then run the same command again"));
        }
        Ok(())
    }

    /// The finished ranges of an earlier run: a line of the journal counts when the bytes on disk have its hash.
    fn verify_marks(&self, pool: &rayon::ThreadPool, marks: &[Mark]) -> Result<Vec<Done>> {
        let done: Vec<Mutex<Done>> = self.tasks.iter().map(|_| Mutex::new(Done::default())).collect();
        let interrupted = AtomicBool::new(false);
        pool.install(|| {
            marks.par_iter().try_for_each(|mark| -> Result<()> {
                if self.job.interrupt.load(Ordering::Relaxed) {
                    interrupted.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                let Some(task) = self.tasks.get(mark.task as usize) else { return Ok(()) };
                let (start, end) = mark.range;
                let tile = Tile { task: mark.task, start, end };
                if start < end && end <= task.units && self.verify_tile(task, tile, mark.xxh3)? {
                    let mut ranges = done[mark.task as usize].lock().unwrap_or_else(PoisonError::into_inner);
                    ranges.insert(start, end);
                }
                Ok(())
            })
        })?;
        if interrupted.into_inner() {
            return Err(interruption());
        }
        Ok(done.into_iter().map(|d| d.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    /// Whether the bytes of `tile` on disk have the hash `xxh3`. Two passes, because bytes enter a shard's digest only
    /// once they are known to be right.
    fn verify_tile(&self, task: &Task, tile: Tile, xxh3: u64) -> Result<bool> {
        const PIECE: u64 = 1 << 20;
        let mut buffers = self.buffers.take(&[PIECE as usize])?;
        let mut hash = RangeHash::new();
        for adopt in [false, true] {
            for written in &task.outputs {
                let output = written.output;
                let (offset, len) = written.range(tile.start, tile.end);
                let mut at = 0;
                while at < len {
                    let piece = PIECE.min(len - at) as usize;
                    let bytes = &mut buffers.get_mut(0)[..piece];
                    if !self.shards.reread(output, offset + at, bytes)? {
                        return Ok(false);
                    }
                    match adopt {
                        true => self.shards.adopt(output, offset + at, bytes)?,
                        false => hash.update(bytes),
                    }
                    at += piece as u64;
                }
            }
            if !adopt && hash.finish() != xxh3 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn count_done(&self, done: &[Done]) -> u64 {
        let mut total = 0;
        for (task, done) in self.tasks.iter().zip(done) {
            if !self.mine[task.shard as usize] || task.units == 0 {
                continue;
            }
            let bytes: u64 = done
                .ranges()
                .iter()
                .flat_map(|(s, e)| task.outputs.iter().map(move |w| w.range(*s, *e).1))
                .sum();
            self.shards.complete(task.shard, bytes);
            total += bytes;
        }
        total
    }

    /// Runs every tile of the schedule.
    fn work(&self, pool: &rayon::ThreadPool, schedule: &Schedule<'_>) -> Result<(u64, u64)> {
        let job = self.job;
        let evaluator = Evaluator {
            plan: job.plan,
            tasks: self.tasks,
            sources: &self.sources,
            shards: &self.shards,
            pool: &self.buffers,
            isa: Isa::chosen(),
            policy: job.policy,
            globals: Mutex::default(),
        };
        let (read, written) = (AtomicU64::new(0), AtomicU64::new(0));
        let stop = AtomicBool::new(false);
        let failure: Mutex<Option<(Tile, Error)>> = Mutex::new(None);
        let one = |tile: Tile| -> Result<()> {
            let evaluated = evaluator.evaluate(tile)?;
            self.journal.append(&Entry {
                task: tile.task,
                range: (tile.start, tile.end),
                xxh3: evaluated.xxh3,
                stats: stats::to_text(&evaluated.stats),
            })?;
            read.fetch_add(evaluated.read, Ordering::Relaxed);
            written.fetch_add(evaluated.written, Ordering::Relaxed);
            job.progress.advance(evaluated.read, evaluated.written);
            let shard = self.tasks[tile.task as usize].shard;
            if self.shards.complete(shard, evaluated.written) {
                self.finish_shard(shard)?;
            }
            Ok(())
        };
        pool.broadcast(|_| {
            while !stop.load(Ordering::Relaxed) && !job.interrupt.load(Ordering::Relaxed) {
                let Some(tile) = schedule.next() else { break };
                if let Err(error) = one(tile) {
                    stop.store(true, Ordering::Relaxed);
                    self.buffers.abort();
                    let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    // The earliest tile speaks, so that the message does not depend on scheduling more than it must.
                    let earlier =
                        first.as_ref().is_none_or(|(t, _)| (tile.task, tile.start) < (t.task, t.start));
                    // What merely follows from another worker's failure would hide it.
                    let cause = ![buffer_pool::ABORTED, journal::STOPPED].contains(&error.code());
                    if earlier && cause {
                        *first = Some((tile, error));
                    }
                }
            }
        });
        if let Some((_, error)) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        if job.interrupt.load(Ordering::Relaxed) {
            return Err(interruption());
        }
        Ok((read.into_inner(), written.into_inner()))
    }

    fn finish_shard(&self, shard: u32) -> Result<()> {
        let digest = self.shards.finish(shard, self.job.sha256)?;
        // The first result stands; a second is the same.
        let _ = self.digests[shard as usize].set(digest);
        Ok(())
    }

    fn finish_shards(&self, pool: &rayon::ThreadPool) -> Result<Vec<done::File>> {
        let wanted: Vec<u32> = (0u32..).zip(&self.mine).filter(|(_, mine)| **mine).map(|(i, _)| i).collect();
        pool.install(|| {
            wanted
                .par_iter()
                .map(|shard| {
                    if self.digests[*shard as usize].get().is_none() {
                        self.finish_shard(*shard)?;
                    }
                    let digest = self.digests[*shard as usize]
                        .get()
                        .ok_or_else(|| Error::internal("shard-digest", "a shard has no digest"))?;
                    Ok(done::File {
                        name: self.job.plan.shards[*shard as usize].name.clone(),
                        digest: digest.clone(),
                    })
                })
                .collect()
        })
    }

    fn finish_sources(&self, pool: &rayon::ThreadPool) -> Result<Vec<done::File>> {
        let sizes: Vec<u64> = self.job.checkpoint.files.iter().map(|f| f.bytes).collect();
        let mine = self.slice.select(&sizes);
        pool.install(|| {
            (0u32..sizes.len() as u32)
                .into_par_iter()
                .map(|file| {
                    if !mine[file as usize] {
                        self.sources.check_unchanged(file)?;
                        return Ok(None);
                    }
                    let digest = self.sources.finish(file, self.job.sha256)?;
                    Ok(Some(done::File {
                        name: self.job.checkpoint.files[file as usize].name.clone(),
                        digest,
                    }))
                })
                .filter_map(Result::transpose)
                .collect()
        })
    }
}

fn interruption() -> Error {
    Error::new(Class::Interrupted, "interrupted", "stopped by a signal; finished work is kept")
        .fix("run the same command again to resume, or add --restart to begin anew")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_everything_once_and_balance() {
        let sizes: Vec<u64> = (0..37).map(|i| (i * 7919) % 101 + 1).collect();
        for count in 1..6 {
            let parts: Vec<Vec<bool>> =
                (1..=count).map(|i| Slice::new(i, count).unwrap().select(&sizes)).collect();
            for i in 0..sizes.len() {
                assert_eq!(parts.iter().filter(|p| p[i]).count(), 1);
            }
            let loads: Vec<u64> = parts
                .iter()
                .map(|p| sizes.iter().zip(p).filter(|(_, m)| **m).map(|(s, _)| s).sum())
                .collect();
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            assert!(most - least <= 101, "{loads:?}");
        }
        assert!(Slice::new(0, 1).is_none() && Slice::new(2, 1).is_none());
    }
}
