//! What the driver makes of what it is told: which writes are kept, which are refused, and which are in doubt.

use super::{Client, Expect, Sent};
use crate::session::tests::model::{is_exit, number};

impl Client {
    pub(super) fn message(&mut self, tag: u8, body: &[u8]) -> Result<(), String> {
        if let b'N' | b'A' | b'S' = tag {
            return Ok(());
        }
        if tag == b'E' && body.starts_with(b"SFATAL") {
            self.closed = true;
            if !String::from_utf8_lossy(body).contains("unknown") {
                for sent in std::mem::take(&mut self.sent) {
                    self.lost(&sent.expect);
                }
                self.refused.extend(self.open.drain(..));
            }
            return Ok(());
        }
        let over = self.sent.front().is_some_and(|sent| self.is_over(sent));
        if tag == b'Z' && !over && self.doubtful > 0 {
            self.doubtful -= 1;
            let expect = Expect::Sync;
            self.sent.push_front(Sent { expect, at: 0 });
        }
        let Some(front) = self.sent.front_mut().filter(|s| s.at < self.delivered) else {
            return self.unasked(tag, body);
        };
        match (tag, &mut front.expect) {
            (b'E', _) => {
                self.in_doubt = body.windows(6).any(|field| field == b"C40003");
                return self.error();
            }
            (b'Z', _) => return self.ready(body[0]),
            (b'1', Expect::Parse) | (b'2', Expect::Bind) | (b'n' | b'T', Expect::Describe) => {
                self.sent.pop_front();
            }
            (b't', Expect::Describe) | (b'D', Expect::Query(_) | Expect::Execute(_)) => {}
            (b'I', Expect::Query(list)) if list.is_empty() => {}
            (b'V', Expect::Call { answered }) if !*answered => *answered = true,
            (b'G', Expect::Query(_)) => self.copy_begins(false),
            (b'G', Expect::Execute(_)) => self.copy_begins(true),
            (b'C', Expect::Query(list)) if !self.failed => {
                let text = list.pop_front().ok_or("more answers than statements")?;
                return self.complete(&text, body);
            }
            (b'C', Expect::Execute(text)) => {
                let text = text.clone();
                self.sent.pop_front();
                return self.complete(&text, body);
            }
            (_, expect) => return Err(format!("not the answer to {expect:?}")),
        }
        Ok(())
    }

    /// An error in the middle of a batch may be about what was answered, and then is about nothing.
    fn unasked(&mut self, tag: u8, body: &[u8]) -> Result<(), String> {
        let interrupted = tag == b'E' && String::from_utf8_lossy(body).contains("C57014");
        if !interrupted || !self.batch || self.skipping || !self.is_quiet() {
            return Err("nothing was asked".to_owned());
        }
        self.acknowledged.extend(self.told.drain(..));
        self.error_seen = true;
        self.parsed = None;
        self.skipping = true;
        Ok(())
    }

    fn copy_begins(&mut self, execute: bool) {
        let end = self
            .sent
            .iter()
            .position(|s| matches!(s.expect, Expect::CopyEnd));
        if let Some(end) = end {
            self.sent.remove(end);
        } else {
            self.copy = Some(execute);
            // Sync in COPY IN earns nothing; whether it met one that had failed by then nobody can tell.
            self.doubtful += self.sent.len() - 1;
            self.sent.truncate(1);
            self.batch |= execute;
        }
    }

    fn error(&mut self) -> Result<(), String> {
        if self.failed {
            return Err("a second error".to_owned());
        }
        self.error_seen = true;
        // Where nothing is left to fail, it can only be about what was told.
        let told = std::mem::take(&mut self.told);
        if self.in_doubt {
            self.open.clear();
        } else if self.is_over(&self.sent[0]) {
            self.refused.extend(told);
        } else {
            self.told = told;
        }
        self.parsed = None;
        self.copy = None;
        match &mut self.sent[0].expect {
            Expect::Query(list) => {
                let lost = Expect::Query(std::mem::take(list));
                self.lost(&lost);
                self.failed = true;
            }
            Expect::Call { .. } | Expect::Sync => self.failed = true,
            Expect::Parse
            | Expect::Bind
            | Expect::Describe
            | Expect::Execute(_)
            | Expect::CopyEnd => {
                while let Some(sent) = self
                    .sent
                    .pop_front_if(|s| !matches!(s.expect, Expect::Sync))
                {
                    self.lost(&sent.expect);
                }
                self.skipping = self.sent.is_empty();
            }
        }
        Ok(())
    }

    /// Whether only the ReadyForQuery of the request at the front is missing.
    fn is_over(&self, front: &Sent) -> bool {
        match &front.expect {
            Expect::Sync => true,
            Expect::Query(list) => self.failed || list.is_empty(),
            Expect::Call { answered } => self.failed || *answered,
            Expect::Parse
            | Expect::Bind
            | Expect::Describe
            | Expect::Execute(_)
            | Expect::CopyEnd => false,
        }
    }

    fn ready(&mut self, status: u8) -> Result<(), String> {
        let sent = self.sent.pop_front().ok_or("nothing was asked")?;
        if !self.is_over(&sent) {
            return Err(format!("the answer to {:?} is not complete", sent.expect));
        }
        self.failed = false;
        self.in_doubt = false;
        self.status = status;
        self.acknowledged.extend(self.told.drain(..));
        if status == b'I' {
            if self.in_block && !self.error_seen {
                return Err("the transaction vanished".to_owned());
            }
            let tokens = self.open.drain(..);
            if self.error_seen {
                self.refused.extend(tokens);
            } else {
                self.acknowledged.extend(tokens);
            }
            self.savepoints.0.clear();
            self.ended = false;
        }
        self.in_block = status != b'I';
        if status != b'E' {
            self.error_seen = false;
        }
        Ok(())
    }

    fn complete(&mut self, text: &str, body: &[u8]) -> Result<(), String> {
        let tag = String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap()).into_owned();
        // An error from here on is about this statement.
        self.acknowledged.extend(self.told.drain(..));
        if text.starts_with("ROLLBACK TO") && tag == "ROLLBACK" {
            let mark = self.savepoints.roll_back_to(text).unwrap_or(0);
            self.refused
                .extend(self.open.drain(mark.min(self.open.len())..));
            self.error_seen = false;
            return Ok(());
        }
        if is_exit(text) {
            return self.ended(text, &tag);
        }
        let (command, _) = text.split_once(' ').unwrap_or((text, ""));
        let expected = match command {
            "INSERT" => format!("INSERT 0 {}", number(text)),
            "COPY" => format!("COPY {}", number(text)),
            "SLEEP" | "DOZE" | "SELECT" => "SELECT 1".to_owned(),
            other => other.to_owned(),
        };
        if tag != expected {
            return Err(format!("not the answer to {text}"));
        }
        match command {
            "INSERT" => self.open.push(number(text)),
            "VACUUM" | "CALL" if !self.in_block => {
                // What the batch has done before may be committed with it.
                self.open.clear();
                self.told.push(number(text));
            }
            "VACUUM" | "CALL" => self.open.push(number(text)),
            "COPY" => {
                self.open.push(number(text));
                self.doubtful = 0;
            }
            "BEGIN" => self.in_block = true,
            "SAVEPOINT" => self.savepoints.open(text, self.open.len()),
            "RELEASE" => drop(self.savepoints.release(text)),
            "SELECT" => self.selects += 1,
            _ => {}
        }
        Ok(())
    }

    fn ended(&mut self, text: &str, tag: &str) -> Result<(), String> {
        let committed = tag == "COMMIT";
        let tokens = self.open.drain(..);
        if committed && text.ends_with("AND CHAIN") {
            self.acknowledged.extend(tokens);
        } else if committed {
            self.told.extend(tokens);
        } else {
            self.refused.extend(tokens);
        }
        if text.starts_with("COMMIT") && !committed && (self.ended || !self.error_seen) {
            return Err("a lie: rolled back, and no error told".to_owned());
        }
        self.ended = false;
        if committed && !text.starts_with("COMMIT") {
            return Err(format!("not the answer to {text}"));
        }
        self.savepoints.0.clear();
        self.error_seen = false;
        self.in_block = text.ends_with("AND CHAIN");
        Ok(())
    }
}
