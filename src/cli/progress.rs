//! Progress of long work: a bar, NDJSON events, or nothing.

use super::ProgressMode;
use super::ui::Ui;
use crate::exec::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Least time between two events for a machine.
const INTERVAL: Duration = Duration::from_millis(500);

/// What hears of finished tiles.
pub(super) struct Meter {
    bar: Option<ProgressBar>,
    events: bool,
    total: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    started: Instant,
    last: Mutex<Instant>,
}

impl Meter {
    pub(super) fn new(ui: &Ui) -> Self {
        let bar = ui.bars().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = "{bar:32} {bytes}/{total_bytes} written  {bytes_per_sec}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            events: ui.progress() == ProgressMode::Json,
            total: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            started: Instant::now(),
            last: Mutex::new(Instant::now()),
        }
    }

    fn event(&self, name: &str) {
        let event = serde_json::json!({
            "event": name,
            "written_bytes": self.written.load(Ordering::Relaxed),
            "total_bytes": self.total.load(Ordering::Relaxed),
            "read_bytes": self.read.load(Ordering::Relaxed),
            "seconds": self.started.elapsed().as_secs_f64(),
        });
        let _ = writeln!(std::io::stderr(), "{event}");
    }

    /// Takes the bar away, so that what follows starts on a clean line.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.events {
            self.event("end");
        }
    }
}

impl Progress for Meter {
    fn begin(&self, total: u64, done: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.written.store(done, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.reset_eta();
        }
        if self.events {
            self.event("begin");
        }
    }

    fn advance(&self, read: u64, written: u64) {
        self.read.fetch_add(read, Ordering::Relaxed);
        self.written.fetch_add(written, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(written);
        }
        if self.events
            && let Ok(mut last) = self.last.try_lock()
            && last.elapsed() >= INTERVAL
        {
            *last = Instant::now();
            self.event("progress");
        }
    }
}
