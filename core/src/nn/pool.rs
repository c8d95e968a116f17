//! Fork and join in about a microsecond.
//!
//! A decoding step has some two hundred short parallel regions; a pool whose workers sleep between them loses more time
//! waking up than it wins. Workers here spin for a moment before they sleep, and the caller never waits for one that has
//! not begun: parts are claimed one at a time, and a region closes when the caller finds none left. Which thread computes
//! a part never changes its result.
#![allow(unsafe_code)]

use std::{
    cell::{Cell, UnsafeCell},
    marker::PhantomData,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex, OnceLock, TryLockError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How long a worker looks for more work before it sleeps.
const SPIN: Duration = Duration::from_micros(80);
/// Below this many operations a region is not worth sharing.
const WORTH_SHARING: usize = 40_000;
/// Parts for each thread: enough to even out a thread that is held up.
const PARTS_PER_THREAD: usize = 4;

type Job<'a> = dyn Fn(usize) + Sync + 'a;

struct Pool {
    /// Held by the region that runs; who finds it taken works alone.
    busy: Mutex<()>,
    /// Bits 0..16: workers inside; bit 16: open; from bit 17: number of the region.
    state: AtomicU64,
    /// Written only while closed and empty; read only by workers inside.
    job: UnsafeCell<Option<*const Job<'static>>>,
    parts: AtomicUsize,
    next: AtomicUsize,
    panicked: AtomicBool,
    sleepers: AtomicUsize,
    workers: OnceLock<Vec<Thread>>,
}

// SAFETY: `job` is the only field that is not `Sync` by itself; the protocol of `state` keeps its writer and its readers
// apart (see `Pool::run` and `Pool::work`).
unsafe impl Sync for Pool {}

const INSIDE: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const REGION: u64 = 1 << 17;

static POOL: Pool = Pool {
    busy: Mutex::new(()),
    state: AtomicU64::new(0),
    job: UnsafeCell::new(None),
    parts: AtomicUsize::new(0),
    next: AtomicUsize::new(0),
    panicked: AtomicBool::new(false),
    sleepers: AtomicUsize::new(0),
    workers: OnceLock::new(),
};

thread_local! {
    static LIMIT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Threads the kernels use: the environment variable `MUSAIC_THREADS`, else what the system offers.
pub fn threads() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    LIMIT.get().unwrap_or_else(|| {
        *COUNT.get_or_init(|| {
            let asked = std::env::var("MUSAIC_THREADS").ok().and_then(|n| n.parse().ok());
            let offered = || thread::available_parallelism().map_or(1, usize::from);
            asked.unwrap_or_else(offered).clamp(1, 256)
        })
    })
}

/// Runs `f` with regions begun on this thread split as for `count` threads; 1 keeps them on this thread.
pub fn with_threads<R>(count: usize, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<usize>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }
    let _restore = Restore(LIMIT.replace(Some(count.max(1))));
    f()
}

impl Pool {
    fn workers(&'static self) -> &'static [Thread] {
        self.workers.get_or_init(|| {
            let count = LIMIT.take();
            let wanted = threads();
            LIMIT.set(count);
            (1..wanted)
                .filter_map(|i| thread::Builder::new().name(format!("musaic-{i}")).spawn(|| self.work()).ok())
                .map(|handle| handle.thread().clone())
                .collect()
        })
    }

    /// Takes parts until none is left.
    fn claim(&self, job: &Job<'_>) {
        let parts = self.parts.load(Ordering::Relaxed);
        loop {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            if part >= parts {
                return;
            }
            job(part);
        }
    }

    fn work(&'static self) {
        let mut done = 0;
        loop {
            let state = self.await_region(done);
            // Entering counts only while the region is open: the caller closes it before it leaves.
            if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            done = state / REGION;
            // SAFETY: counted as inside, so the caller of `run` has not returned and its job is alive and unchanged.
            if let Some(job) = unsafe { *self.job.get() } {
                // SAFETY: as above.
                let job = unsafe { &*job };
                if catch_unwind(AssertUnwindSafe(|| self.claim(job))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Spins, then sleeps, until a region other than `done` is open.
    fn await_region(&self, done: u64) -> u64 {
        let fresh = |state: u64| state & OPEN != 0 && state / REGION != done;
        loop {
            let begun = Instant::now();
            while begun.elapsed() < SPIN {
                for _ in 0..64 {
                    let state = self.state.load(Ordering::Acquire);
                    if fresh(state) {
                        return state;
                    }
                    std::hint::spin_loop();
                }
            }
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            // Looked at once more after the announcement, so that no opening goes unheard.
            if !fresh(self.state.load(Ordering::SeqCst)) {
                thread::park();
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Runs `job` for every part, here and on whichever workers come in time.
    fn run(&'static self, parts: usize, job: &Job<'_>) {
        let alone = || (0..parts).for_each(job);
        if parts < 2 || threads() == 1 {
            return alone();
        }
        let workers = self.workers();
        let _busy = match self.busy.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return alone(),
        };
        // SAFETY: only the lifetime changes; `Close` below waits for all readers before this function returns.
        let erased = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        // SAFETY: the last region was closed and left by all before `busy` was released, so nobody reads.
        unsafe { *self.job.get() = Some(erased) };
        self.parts.store(parts, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        self.panicked.store(false, Ordering::Relaxed);
        let region = self.state.load(Ordering::Relaxed) / REGION + 1;
        self.state.store((region * REGION) | OPEN, Ordering::SeqCst);
        let close = Close(self);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            workers.iter().for_each(Thread::unpark);
        }
        self.claim(job);
        drop(close);
        if self.panicked.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a worker thread panicked"));
        }
    }
}

/// Ends a region, also when the caller's own part panics.
struct Close(&'static Pool);

impl Drop for Close {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut turns = 0u32;
        while self.0.state.load(Ordering::Acquire) & INSIDE != 0 {
            turns += 1;
            if turns.is_multiple_of(4096) {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// Splits `0..count` into ranges of a multiple of `grain` (the last may be shorter) and runs `f` on each, in parallel
/// where `count * cost` operations are worth it.
pub(crate) fn ranges(count: usize, grain: usize, cost: usize, f: impl Fn(Range<usize>) + Sync) {
    if count == 0 {
        return;
    }
    let grains = count.div_ceil(grain);
    let parts = if count.saturating_mul(cost) < WORTH_SHARING || threads() == 1 {
        1
    } else {
        grains.min(threads() * PARTS_PER_THREAD)
    };
    let at = |part: usize| (grains * part / parts * grain).min(count);
    POOL.run(parts, &|part| f(at(part)..at(part + 1)));
}

/// Splits `out`, which is rows of `width`, into runs of whole rows and fills each: `f(first_row, rows)`.
/// `cost` is the number of operations a row takes.
pub(crate) fn rows_mut<T: Send>(out: &mut [T], width: usize, cost: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    struct Base<'a, T>(*mut T, PhantomData<&'a mut [T]>);
    // SAFETY: parts are disjoint, see below; `T` may be sent.
    unsafe impl<T: Send> Sync for Base<'_, T> {}
    if width == 0 {
        return;
    }
    let base = Base(out.as_mut_ptr(), PhantomData);
    let base = &base;
    ranges(out.len() / width, 1, cost, |rows| {
        // SAFETY: `ranges` hands out each row number below `out.len() / width` once, so the slices do not overlap and
        // lie inside `out`, which is borrowed for the whole call.
        let part = unsafe { std::slice::from_raw_parts_mut(base.0.add(rows.start * width), rows.len() * width) };
        f(rows.start, part);
    });
}

/// A view through which several threads may write different elements of one slice, as [`f32::to_bits`].
pub(crate) fn shared(out: &mut [f32]) -> &[AtomicU32] {
    // SAFETY: `AtomicU32` has the size and alignment of `f32`, and the exclusive borrow lasts as long as the view.
    unsafe { std::slice::from_raw_parts(out.as_mut_ptr().cast(), out.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_once() {
        for count in [1, 2, 7, 64, 1000] {
            for threads in 1..5 {
                let seen: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                with_threads(threads, || {
                    for _ in 0..50 {
                        ranges(count, 3, usize::MAX, |r| {
                            for i in r {
                                seen[i].fetch_add(1, Ordering::Relaxed);
                            }
                        });
                    }
                });
                assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 50), "{count} items, {threads} threads");
            }
        }
    }

    #[test]
    fn regions_inside_regions_and_beside_them() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mut out = vec![0usize; 64];
                        rows_mut(&mut out, 4, usize::MAX, |first, rows| {
                            ranges(8, 1, usize::MAX, |_| {});
                            rows.iter_mut().enumerate().for_each(|(i, x)| *x = first * 4 + i);
                        });
                        assert!(out.iter().enumerate().all(|(i, x)| i == *x));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_comes_out_and_the_pool_lives_on() {
        let result = catch_unwind(|| ranges(100, 1, usize::MAX, |r| assert!(!r.contains(&50), "as asked")));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        ranges(100, 1, usize::MAX, |r| {
            sum.fetch_add(r.len(), Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 100);
    }
}
