//! Savepoints as both sides of the model count them.

/// Savepoints by name, each with what had been written when it was opened; a name means the newest one.
#[derive(Clone, Debug, Default)]
pub(in crate::session::tests) struct Savepoints(pub(super) Vec<(String, usize)>);

impl Savepoints {
    fn name(text: &str) -> &str {
        text.rsplit(' ').next().unwrap()
    }

    pub(super) fn open(&mut self, text: &str, mark: usize) {
        self.0.push((Self::name(text).to_owned(), mark));
    }

    fn find(&self, text: &str) -> Option<(usize, usize)> {
        let index = self
            .0
            .iter()
            .rposition(|(name, _)| name == Self::name(text))?;
        Some((index, self.0[index].1))
    }

    pub(super) fn release(&mut self, text: &str) -> Option<usize> {
        let (index, mark) = self.find(text)?;
        self.0.truncate(index);
        Some(mark)
    }

    pub(super) fn roll_back_to(&mut self, text: &str) -> Option<usize> {
        let (index, mark) = self.find(text)?;
        self.0.truncate(index + 1);
        Some(mark)
    }

    /// What had been written when the newest one was opened.
    pub(super) fn last(&self) -> usize {
        self.0.last().map_or(0, |(_, mark)| *mark)
    }

    /// Whether one of this name is open.
    pub(in crate::session::tests) fn is_open(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}
