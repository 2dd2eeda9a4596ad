//! How large pgidle is, over time.

use std::{fmt, time::Instant};

use crate::support::{observed::incident_of, proxy::Proxy, wait_for, wire::Client};

/// The application of the first session, which reads and thinks.
pub(super) const FIRST: &str = "legacy 0";

/// Growth of less than this, in KiB, is the allocator's.
const GRAIN: f64 = 1024.0;

/// Measures of the process, taken now and then.
pub(super) struct Measures {
    start: Instant,
    /// Seconds, and KiB of resident memory.
    memory: Vec<(f64, f64)>,
    descriptors: usize,
    /// When nobody was connected.
    at_rest: usize,
}

impl fmt::Display for Measures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, memory) = self.memory.last().copied().unwrap_or_default();
        write!(f, "{memory} KiB, {} descriptors", self.descriptors)
    }
}

impl Measures {
    /// Begins with a proxy that nobody has used, whose observer this has connect.
    pub(super) fn begin(proxy: &Proxy) -> Self {
        let mut client = Client::connect_with(proxy.endpoint(), &[("application_name", FIRST)]);
        client.begin("SELECT 1");
        incident_of(proxy, client.server_pid());
        drop(client);
        let mut before = usize::MAX;
        let at_rest = wait_for("the end of the first session", || {
            let now = proxy.descriptors();
            let same = std::mem::replace(&mut before, now) == now;
            same.then_some(now)
        });
        Self {
            start: Instant::now(),
            memory: Vec::new(),
            descriptors: at_rest,
            at_rest,
        }
    }

    pub(super) fn take(&mut self, proxy: &Proxy) {
        let memory = u32::try_from(proxy.memory_kib()).unwrap();
        self.memory
            .push((self.start.elapsed().as_secs_f64(), memory.into()));
        self.descriptors = proxy.descriptors();
    }

    /// Fails where memory has grown by more than noise, or where descriptors are left that nobody uses.
    ///
    /// Memory is judged by the line of least squares through what was measured after the first third, in which pools fill
    /// up, without its [steps](without_steps): it has grown where the line rises by more than [`GRAIN`] and its slope is
    /// more than three times as large as its standard error.
    pub(super) fn end(&self, proxy: &Proxy) {
        let settled = without_steps(&self.memory[self.memory.len() / 3..]);
        let (slope, error) = line(&settled);
        let span = settled.last().unwrap().0 - settled[0].0;
        let growth = slope * span;
        eprintln!(
            "soak: memory {:.2} KiB a minute, with a standard error of {:.2}: {growth:.0} KiB in {span:.0} s of {} KiB",
            60.0 * slope,
            60.0 * error,
            settled.last().unwrap().1,
        );
        assert!(growth < GRAIN || slope < 3.0 * error, "memory grows");
        wait_for("the descriptors of the beginning", || {
            let now = proxy.descriptors();
            (now <= self.at_rest).then_some(())
        });
        eprintln!(
            "soak: descriptors at rest: {} before, {} after",
            self.at_rest,
            proxy.descriptors()
        );
    }
}

/// What was measured, with the largest rises, those of one look in twenty, cut to the next largest.
///
/// When a server comes back everyone connects at once, and the allocator keeps the pages of the moment at which most was
/// in use. What leaks does so all the time, or whenever something happens that happens more often.
fn without_steps(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let rise = |pair: &[(f64, f64)]| pair[1].1 - pair[0].1;
    let mut rises: Vec<f64> = points.windows(2).map(rise).collect();
    rises.sort_by(|one, other| other.total_cmp(one));
    let most = rises.get(points.len() / 20).copied().unwrap_or_default();
    let (mut last, mut level) = (points[0].1, points[0].1);
    let level_at = |&(x, y): &(f64, f64)| {
        level += (y - last).min(most.max(0.0));
        last = y;
        (x, level)
    };
    points.iter().map(level_at).collect()
}

/// The slope of the line of least squares, and its standard error.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.iter().map(|_| 1.0).sum::<f64>();
    let mean = |value: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let spread = points
        .iter()
        .map(|point| (point.0 - x).powi(2))
        .sum::<f64>();
    let together = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum::<f64>();
    let slope = together / spread;
    let rest = points
        .iter()
        .map(|point| (point.1 - y - slope * (point.0 - x)).powi(2))
        .sum::<f64>();
    (slope, (rest / (count - 2.0).max(1.0) / spread).sqrt())
}

#[test]
fn a_line_that_rises_is_told_from_noise() {
    let points = |rise: f64| {
        let noise = [0.0, 30.0, -20.0, 10.0, -20.0];
        let point = |i: u32| {
            let x = 10.0 * f64::from(i);
            (x, 9000.0 + rise * x + noise[i as usize % noise.len()])
        };
        (0..60).map(point).collect::<Vec<_>>()
    };
    let (slope, error) = line(&points(0.0));
    assert!(slope.abs() < 3.0 * error, "{slope} {error}");
    let (slope, error) = line(&points(1.0));
    assert!(
        (slope - 1.0).abs() < 0.1 && slope > 3.0 * error,
        "{slope} {error}"
    );
}

#[test]
fn steps_are_told_from_a_leak() {
    let rise_of = |rise: &dyn Fn(u32) -> f64| {
        let mut level = 20_000.0;
        let point = |i: u32| {
            level += rise(i);
            (10.0 * f64::from(i), level)
        };
        let points: Vec<_> = (0..80).map(point).collect();
        790.0 * line(&without_steps(&points)).0
    };
    // As was seen in a run of 20 minutes whose live memory, told by the allocator, did not grow.
    let steps = |i: u32| match i {
        15 => 384.0,
        30 => 652.0,
        74 => 180.0,
        _ => f64::from(i % 3) * 4.0,
    };
    assert!(rise_of(&steps) < GRAIN);
    // 2 KiB a second, and 200 KiB with every sixth look.
    assert!(rise_of(&|_| 20.0) > GRAIN);
    assert!(rise_of(&|i| if i % 6 == 0 { 200.0 } else { 0.0 }) > GRAIN);
}
