//! A demonstration on a throwaway PostgreSQL.

mod cluster;

pub use cluster::{Cluster, ClusterError, ClusterOptions};
