//! Random clients, servers and clocks against the machine: nothing acknowledged is lost, nothing refused is kept.
