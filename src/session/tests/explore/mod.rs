//! Every interleaving, to a depth, of what can happen around a session: breadth first, each state looked at once.
//!
//! The states are those of the whole world ([`World`]): the machine, and the client, the server and the rest of the model
//! around it. After everything that happens the model says whether it was right, and from every state there has to be a
//! way out. What is told of a state stands in [`digest`], what can happen in [`family`], and how sharp all this is in
//! [`faults`]: machines that are broken on purpose. A search of our own, and not stateright: the model's states and
//! actions are there as the property test has them, and what is left of it is the one loop of this file.

mod digest;
mod family;
mod faults;

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard},
};

use tokio::time::Instant as Clock;

use self::{
    digest::digest,
    family::{Family, families},
    faults::Fault,
};
use super::world::{Script, World};
use crate::session::event::Position;

/// A state, and how it was reached: the number of the seed, then those of the letters.
struct Node {
    world: World,
    path: Vec<u8>,
}

/// What an exploration has seen.
#[derive(Default)]
struct Visited {
    states: HashSet<u128>,
    /// Names of positions, and of steps of enforcements.
    places: BTreeSet<&'static str>,
    /// The longest text of a state.
    longest: usize,
}

/// Something that must not be, and how it was reached.
#[derive(Debug)]
struct Counterexample {
    path: Vec<u8>,
    why: String,
}

impl Counterexample {
    /// After how many letters it was found.
    fn depth(&self) -> usize {
        self.path.len() - 1
    }
}

struct Search<'a> {
    family: &'a Family,
    fault: Option<Fault>,
    visited: Mutex<Visited>,
}

impl<'a> Search<'a> {
    fn new(family: &'a Family, fault: Option<Fault>) -> Self {
        Self {
            family,
            fault,
            visited: Mutex::default(),
        }
    }

    fn visited(&self) -> MutexGuard<'_, Visited> {
        self.visited
            .lock()
            .expect("no panic leaves it half written")
    }

    /// The positions in which it begins.
    fn seeds(&self) -> Result<Vec<Node>, Counterexample> {
        let mut nodes = Vec::new();
        for seed in (0_u8..).take(self.family.seeds.len()) {
            let path = vec![seed];
            let begun = self
                .family
                .begin(usize::from(seed), |world| world.fault = self.fault);
            let world = begun.map_err(|why| Counterexample {
                path: path.clone(),
                why,
            })?;
            nodes.extend(self.visit(Node { world, path })?);
        }
        Ok(nodes)
    }

    /// A life of a session that ends in what must not be, as a transcript.
    fn transcript(&self, found: &Counterexample) -> String {
        let Family { name, letters, .. } = self.family;
        let mut text = format!("# {name}, limits: {}\n", self.family.limits);
        let (&seed, path) = found.path.split_first().unwrap();
        let begun = self.family.begin(usize::from(seed), |world| {
            world.fault = self.fault;
            world.script = Some(Script::default());
        });
        let Ok(mut world) = begun else {
            return text;
        };
        let ended = guarded(|| {
            for &letter in path {
                letters[usize::from(letter)]
                    .iter()
                    .try_for_each(|op| world.apply(op))?;
                world.check_books()?;
                world.count_anew();
            }
            world.note("# from here on it is looked for a way out");
            ends_well(&mut world)
        });
        text += &world.script.take().unwrap_or_default().text;
        writeln!(
            text,
            "# {}",
            ended.err().unwrap_or_else(|| found.why.clone())
        )
        .unwrap();
        text
    }

    /// Looks at a state that was reached; `None` when it is known.
    fn visit(&self, mut node: Node) -> Result<Option<Node>, Counterexample> {
        node.world.count_anew();
        let mut text = String::new();
        let digest = digest(&node.world, &mut text);
        {
            let mut visited = self.visited();
            if !visited.states.insert(digest) {
                return Ok(None);
            }
            visited.longest = visited.longest.max(text.len());
            visited.places.insert(node.world.session.position().name());
            let step = node.world.session.enforcement_step();
            visited.places.extend(step.map(|step| step.name()));
        }
        let Node { world, path } = &node;
        let ended = guarded(|| ends_well(&mut world.clone()));
        match ended {
            Ok(()) => Ok(Some(node)),
            Err(why) => Err(Counterexample {
                path: path.clone(),
                why,
            }),
        }
    }

    /// All states that are one letter away from these, and are new.
    fn expand(
        &self,
        nodes: &[Node],
        threads: usize,
        last: bool,
    ) -> Result<Vec<Node>, Counterexample> {
        let part = |thread: usize| {
            let mut reached = Vec::new();
            for node in nodes.iter().skip(thread).step_by(threads) {
                for (index, letter) in (0_u8..).zip(&self.family.letters) {
                    if !Family::allows(&node.world, letter) {
                        continue;
                    }
                    let mut path = node.path.clone();
                    path.push(index);
                    let mut world = node.world.clone();
                    let happened = guarded(|| {
                        letter.iter().try_for_each(|op| world.apply(op))?;
                        world.check_books()
                    });
                    if let Err(why) = happened {
                        return Err(Counterexample { path, why });
                    }
                    let node = self.visit(Node { world, path })?;
                    reached.extend(node.filter(|_| !last));
                }
            }
            Ok(reached)
        };
        std::thread::scope(|scope| {
            let parts: Vec<_> = (0..threads)
                .map(|thread| scope.spawn(move || part(thread)))
                .collect();
            let mut all = Vec::new();
            for part in parts {
                all.extend(part.join().expect("a panic was caught")?);
            }
            Ok(all)
        })
    }

    /// Everything that can happen in so many steps; `done` is told of each depth, and how many states there are by then.
    fn run(
        &self,
        depth: usize,
        threads: usize,
        done: impl Fn(usize, usize),
    ) -> Result<(), Counterexample> {
        let mut nodes = self.seeds()?;
        for step in 1..=depth {
            nodes = self.expand(&nodes, threads, step == depth)?;
            done(step, self.visited().states.len());
        }
        Ok(())
    }
}

/// A panic is as wrong as anything else.
fn guarded(run: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let caught = catch_unwind(AssertUnwindSafe(run));
    caught.unwrap_or_else(|_| Err("panicked".to_owned()))
}

/// From here the session gets quiet, or is closed, and the books balance: when the client says nothing more, and when it
/// goes on at once.
fn ends_well(world: &mut World) -> Result<(), String> {
    let goes_on = world.clone();
    let ended = ends_in_time(world);
    if ended.is_ok() && !goes_on.left {
        *world = goes_on;
        goes_on_well(world)
    } else {
        ended
    }
}

fn ends_in_time(world: &mut World) -> Result<(), String> {
    if world.hangs {
        world.check_patience()?;
    } else {
        world.check_way_out()?;
    }
    if world.left && !world.closed {
        return Err("the client has left, and the session has not".to_owned());
    }
    goes_on_well(world)
}

fn goes_on_well(world: &mut World) -> Result<(), String> {
    if !world.closed {
        world.hangs = false;
        world.check_alive()?;
    }
    world.check_books()
}

/// How many steps follow upon each position: few enough for every `cargo test`, unless more are asked for.
fn depth() -> usize {
    let asked = std::env::var("EXPLORE_DEPTH").ok();
    asked.map_or(3, |depth| depth.parse().expect("EXPLORE_DEPTH is a number"))
}

/// The longest text that a state may have: what a session keeps does not grow with what happens. A question of a release is
/// a page long, and a large message lies in the model.
const LONGEST: usize = 300_000;

#[test]
fn nothing_that_can_happen_breaks_a_promise() {
    let (depth, began) = (depth(), Clock::now());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut states, mut places) = (0, BTreeSet::new());
    for family in families() {
        let search = Search::new(&family, None);
        let result = search.run(depth, threads, |step, states| {
            let seconds = began.elapsed().as_secs_f64();
            let name = family.name;
            println!("{seconds:6.1} s  {name}: {states} states at depth {step}");
        });
        if let Err(found) = result {
            panic!("{}", search.transcript(&found));
        }
        let visited = search.visited.into_inner().unwrap();
        assert!(visited.longest < LONGEST, "{} bytes", visited.longest);
        states += visited.states.len();
        places.extend(visited.places);
    }
    let seconds = began.elapsed().as_secs_f64();
    let names: Vec<_> = places.iter().copied().collect();
    println!(
        "explored {states} states to depth {depth} in {seconds:.1} s, {:.0} a second",
        states as f64 / seconds
    );
    println!("places: {}", names.join(", "));
    let missed: Vec<_> = POSITIONS
        .into_iter()
        .filter(|position| !places.contains(position.name()))
        .collect();
    assert!(missed.is_empty(), "never been in {missed:?}");
}

/// Every position that a session can be in.
const POSITIONS: [Position; 13] = [
    Position::Startup,
    Position::Idle,
    Position::IdleInTransaction,
    Position::IdleInTransactionAborted,
    Position::HalfSentRequest,
    Position::HalfForwardedMessage,
    Position::UnsyncedBatch,
    Position::FailedBatch,
    Position::CopyIn,
    Position::ClientNotReading,
    Position::Running,
    Position::Released,
    Position::Replication,
];
