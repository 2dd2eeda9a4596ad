//! Every position in which a transaction gets stuck besides idle, and the queue's hard cases.

mod age;
mod batches;
mod copy;
mod queue;
mod running;

const STALLED: &str = "stalled: rollback 1s";
