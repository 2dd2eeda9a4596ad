//! Applications that leave transactions open, each in its own way, and speak too late.

use std::{sync::atomic::Ordering, time::Duration};

use super::{Random, Soak};
use crate::support::{
    frontend::{bind, copy_data, execute, flush, parse, query, sync},
    let_pass,
    wire::Client,
};

/// How an application gets stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Reads and thinks.
    Reader,
    /// Writes and thinks.
    Writer,
    /// Sends no Sync.
    Batch,
    /// Begins a COPY and sends one row.
    Copy,
    /// Fails inside a savepoint and thinks.
    Savepoint,
    /// Runs a statement for longer than a transaction may last.
    Sleeper,
    /// Writes and goes without a word.
    Vanishing,
    /// Is never stuck: the whole transaction in one packet.
    Polite,
}

impl Habit {
    pub(super) const ALL: [Self; 8] = [
        Self::Reader,
        Self::Writer,
        Self::Batch,
        Self::Copy,
        Self::Savepoint,
        Self::Sleeper,
        Self::Vanishing,
        Self::Polite,
    ];

    /// What it can be caught at.
    pub(super) fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Reader | Self::Writer | Self::Savepoint => &["idle", "age"],
            Self::Batch | Self::Copy => &["stalled"],
            Self::Sleeper => &["age"],
            Self::Vanishing | Self::Polite => &[],
        }
    }
}

/// What an application was told of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Acknowledged,
    Refused,
    /// The connection was lost during the COMMIT.
    Unknown,
}

/// Opens one session after the other, each with a name of its own.
pub(super) fn live(soak: &Soak, mut random: Random) {
    while !soak.is_over() {
        let number = soak.number.fetch_add(1, Ordering::Relaxed);
        let habit = Habit::ALL[usize::try_from(random.between(0, 8)).unwrap()];
        let name = format!("legacy {number}");
        soak.habits.lock().unwrap().insert(name.clone(), habit);
        let parameters = [("application_name", name.as_str())];
        let Ok(client) = Client::try_connect(soak.door.endpoint(), &parameters) else {
            soak.wait(Duration::from_millis(100));
            continue;
        };
        let think = random.millis(200, 1500);
        let told = Application {
            client,
            think,
            number,
        }
        .transact(habit);
        soak.told.lock().unwrap().push((number, told));
    }
}

struct Application {
    client: Client,
    think: Duration,
    number: u64,
}

impl Application {
    /// Asks, and returns what is heard up to ReadyForQuery; `None` when the connection is lost.
    fn ask(&mut self, bytes: &[u8]) -> Option<String> {
        self.client.try_send(bytes).ok();
        let heard = self.client.until_ready();
        (!heard.ends_with("closed")).then_some(heard)
    }

    fn insert(&self) -> String {
        format!("INSERT INTO orders VALUES ({}, 'legacy')", self.number)
    }

    fn transact(mut self, habit: Habit) -> Told {
        // A connection that is lost before a COMMIT is sent keeps nothing.
        self.get_stuck(habit).unwrap_or(Told::Refused)
    }

    fn get_stuck(&mut self, habit: Habit) -> Option<Told> {
        let insert = self.insert();
        match habit {
            Habit::Reader => {
                self.ask(&query("BEGIN; SELECT count(*) FROM orders"))?;
                let_pass(self.think);
                self.commit(habit);
                // It has no row.
                return Some(Told::Refused);
            }
            Habit::Writer | Habit::Vanishing => {
                self.ask(&query(&format!("BEGIN; {insert}")))?;
            }
            Habit::Savepoint => {
                self.ask(&query(&format!("BEGIN; {insert}; SAVEPOINT a")))?;
                self.ask(&query("SELECT 1/0"))?;
            }
            // Without its row: it would keep all others waiting for most of the time.
            Habit::Sleeper => {
                let heard = self.ask(&query("BEGIN; SELECT pg_sleep(600)"))?;
                assert!(heard.ends_with("E 25P04 / Z E"), "{habit:?}: {heard}");
            }
            Habit::Batch => return self.batch(&insert),
            Habit::Copy => {
                self.client.try_send(&query("COPY orders FROM STDIN")).ok();
                if self.client.until(b'G') != "G" {
                    return None;
                }
                self.ask(&copy_data(&format!("{}\tlegacy\n", self.number)))?;
                return Some(Told::Refused);
            }
            Habit::Polite => {
                let all = ["BEGIN", insert.as_str(), "COMMIT"].map(query).concat();
                self.client.try_send(&all).ok();
                let heard = [(); 3].map(|()| self.client.until_ready());
                return Some(match heard[2].as_str() {
                    "C COMMIT / Z I" => Told::Acknowledged,
                    told if told.ends_with("closed") => Told::Unknown,
                    _ => panic!("{habit:?}: {heard:?}"),
                });
            }
        }
        if habit == Habit::Vanishing {
            return Some(Told::Refused);
        }
        let_pass(self.think);
        Some(self.commit(habit))
    }

    /// A batch without a transaction block: its Sync commits.
    fn batch(&mut self, insert: &str) -> Option<Told> {
        let batch = [
            parse("", insert),
            bind("", "", &[]),
            execute("", 0),
            flush(),
        ]
        .concat();
        self.client.try_send(&batch).ok();
        if !self.client.until(b'C').ends_with("C INSERT 0 1") {
            return None;
        }
        let_pass(self.think);
        Some(match self.ask(&sync()).as_deref() {
            Some("Z I") => Told::Acknowledged,
            Some("E 25P03 / Z I") => Told::Refused,
            None => Told::Unknown,
            Some(heard) => panic!("a batch: {heard}"),
        })
    }

    fn commit(&mut self, habit: Habit) -> Told {
        match self.ask(&query("COMMIT")).as_deref() {
            Some("C COMMIT / Z I") => Told::Acknowledged,
            Some("E 25P03 / Z I" | "E 25P04 / Z I") => Told::Refused,
            // What PostgreSQL itself says of a transaction that has failed.
            Some("C ROLLBACK / Z I") if habit == Habit::Savepoint => Told::Refused,
            None => Told::Unknown,
            Some(heard) => panic!("{habit:?}: a COMMIT was answered by {heard}"),
        }
    }
}
