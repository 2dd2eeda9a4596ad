//! What becomes of commands, of requests at the gate, and of questions.

use std::{
    sync::Barrier,
    task::Wake,
    thread::{self, Thread},
    time::Duration,
};

use super::*;
use crate::session::{Session, SessionParams};

/// Wakes a thread as a runtime wakes a session's task.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn entry() -> Arc<Entry> {
    let registry = Registry::default();
    let permit = registry.permit(None).unwrap();
    let server = Server {
        index: 0,
        resolved: None,
        encrypted: false,
    };
    let entry = registry.enter(Arc::default(), server, permit);
    let waker = Arc::new(Unpark(thread::current()));
    entry.set_waker(&waker.into());
    entry
}

/// Waits as a session does: it sleeps until it is woken.
fn wait_for(entry: &Entry, awaited: fn(&Command) -> bool) {
    loop {
        let mut commands = entry.take_commands();
        if commands.iter().any(awaited) {
            return;
        }
        commands.retain(|command| !matches!(command, Command::CancelWaits));
        assert!(commands.is_empty(), "not waited for: {commands:?}");
        thread::park_timeout(Duration::from_secs(60));
    }
}

fn passes(entry: &Arc<Entry>) -> Option<Passage> {
    match entry.enter_gate() {
        Entrance::Open(passage) => Some(passage),
        Entrance::Waits(_) => None,
    }
}

#[test]
fn nothing_passes_a_closed_gate() {
    let entry = entry();
    assert!(entry.close_gate());
    assert!(passes(&entry).is_none());
    wait_for(&entry, |command| matches!(command, Command::CancelWaits));
    entry.open_gate(true);
    assert!(passes(&entry).is_none());
    wait_for(&entry, |command| matches!(command, Command::CancelWaits));
    entry.open_gate(false);
    assert!(passes(&entry).is_some());
    assert!(entry.take_commands().is_empty());
}

/// What came while a request was held goes on after it, and keeps the gate from being closed meanwhile.
#[test]
fn a_request_at_a_closed_gate_waits_for_what_the_session_decides() {
    let entry = entry();
    let waits = || match entry.enter_gate() {
        Entrance::Open(_) => panic!("the gate is closed"),
        Entrance::Waits(decided) => decided,
    };
    assert!(entry.close_gate());
    let mut late = waits();
    assert!(late.try_recv().is_err(), "undecided");
    entry.open_gate(false);
    entry.let_pass();
    let passage = late.try_recv().unwrap();
    assert!(!entry.close_gate());
    drop(passage);
    wait_for(&entry, |command| matches!(command, Command::GateClosed));
    let mut idle = waits();
    entry.turn_away();
    assert!(idle.try_recv().is_err());
    // Nobody is there any more who could decide.
    Registry::default().leave(&entry);
    assert!(waits().blocking_recv().is_err());
}

#[test]
fn the_gate_is_closed_when_the_last_request_has_passed() {
    let entry = entry();
    let passages = [passes(&entry).unwrap(), passes(&entry).unwrap()];
    assert!(!entry.close_gate());
    let [first, last] = passages;
    drop(first);
    assert!(entry.take_commands().is_empty());
    assert!(!entry.gate_is_closed());
    drop(last);
    assert!(matches!(entry.take_commands()[..], [Command::GateClosed]));
    assert!(entry.gate_is_closed());
    assert!(passes(&entry).is_none());
}

#[test]
fn a_gate_that_was_opened_again_tells_nothing() {
    let entry = entry();
    let passage = passes(&entry).unwrap();
    assert!(!entry.close_gate());
    entry.open_gate(false);
    drop(passage);
    assert!(entry.take_commands().is_empty());
    assert!(entry.close_gate());
}

#[test]
fn a_request_whose_future_is_dropped_has_passed() {
    let entry = entry();
    let passage = passes(&entry).unwrap();
    let never = Box::pin(async move {
        let _passage = passage;
        std::future::pending::<()>().await;
    });
    assert!(!entry.close_gate());
    drop(never);
    wait_for(&entry, |command| matches!(command, Command::GateClosed));
}

/// Requests come from every thread; the session's own closes the gate, injects, and opens it again.
#[test]
fn no_request_is_on_its_way_while_the_gate_is_closed() {
    const THREADS: usize = 4;
    const PASSAGES: usize = 2000;
    let entry = entry();
    let on_their_way = AtomicUsize::new(0);
    let passed = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let start = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                while !over.load(Ordering::SeqCst) {
                    let Some(passage) = passes(&entry) else {
                        thread::yield_now();
                        continue;
                    };
                    on_their_way.fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                    on_their_way.fetch_sub(1, Ordering::SeqCst);
                    passed.fetch_add(1, Ordering::SeqCst);
                    drop(passage);
                }
            });
        }
        start.wait();
        while passed.load(Ordering::SeqCst) < PASSAGES {
            if !entry.close_gate() {
                wait_for(&entry, |command| matches!(command, Command::GateClosed));
            }
            assert_eq!(on_their_way.load(Ordering::SeqCst), 0);
            let before = passed.load(Ordering::SeqCst);
            thread::yield_now();
            assert_eq!(passed.load(Ordering::SeqCst), before);
            entry.open_gate(false);
            thread::yield_now();
        }
        over.store(true, Ordering::SeqCst);
    });
}

#[tokio::test]
async fn who_asks_a_session_that_ends_learns_that_it_has() {
    let registry = Registry::default();
    let server = Server {
        index: 0,
        resolved: None,
        encrypted: false,
    };
    let entry = registry.enter(Arc::default(), server, registry.permit(None).unwrap());
    assert!(registry.get(entry.id()).is_some());
    let (before, unread) = oneshot::channel();
    entry.tell(Command::Snapshot(before));
    entry.shut_mailbox();
    assert_eq!(registry.snapshots().await, []);
    assert_eq!(registry.len(), 1, "its connections are still open");
    registry.leave(&entry);
    let (after, late) = oneshot::channel();
    entry.tell(Command::Snapshot(after));
    assert!(unread.await.is_err() && late.await.is_err());
    assert!(registry.get(entry.id()).is_none());
}

#[test]
fn no_command_is_lost_and_each_wakes_the_session() {
    const EACH: usize = 1000;
    let entry = entry();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..EACH).for_each(|_| entry.tell(Command::Reload)));
        }
        let mut told = 0;
        while told < 2 * EACH {
            told += entry.take_commands().len();
            thread::park_timeout(Duration::from_millis(1));
        }
    });
    assert!(entry.take_commands().is_empty());
}

#[tokio::test]
async fn a_session_in_which_nothing_happens_is_asked_once() {
    let registry = Arc::new(Registry::default());
    let server = Server {
        index: 0,
        resolved: None,
        encrypted: false,
    };
    let entry = registry.enter(Arc::default(), server, registry.permit(None).unwrap());
    let began = Instant::now();
    let session = Session::new(SessionParams::default(), Arc::default(), began.into_std());
    let ask = || {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move { registry.snapshots().await })
    };
    // As the session's task does it: it says how things stand when everything else is done.
    let answer = async |now: Instant| {
        let mut commands = Vec::new();
        while commands.is_empty() {
            tokio::task::yield_now().await;
            commands = entry.take_commands();
        }
        let Some(Command::Snapshot(reply)) = commands.pop() else {
            panic!("{commands:?}");
        };
        let snapshot = session.snapshot(now.into_std());
        reply.send(snapshot.clone()).unwrap();
        entry.keep(snapshot, now);
    };
    let asked = ask();
    answer(began).await;
    assert_eq!(asked.await.unwrap().len(), 1);
    let later = ask().await.unwrap();
    let [later] = <[Snapshot; 1]>::try_from(later).unwrap();
    assert!(later.position_for > Duration::ZERO, "time goes on");
    assert!(entry.take_commands().is_empty(), "it was not woken");
    entry.goes_on();
    let asked = ask();
    answer(Instant::now()).await;
    assert_eq!(asked.await.unwrap().len(), 1);
}
