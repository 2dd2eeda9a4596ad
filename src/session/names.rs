//! What the names of a session's statements and portals stand for.

use std::collections::HashMap;

/// One entry for each name. A name is looked for in every Bind: SipHash, the standard library's, takes longer for it than
/// the rest of that message, and this one is seeded as well.
pub(super) type Names<T> = HashMap<Box<[u8]>, T, foldhash::fast::RandomState>;
