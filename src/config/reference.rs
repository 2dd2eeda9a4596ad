//! What `config/pgidle.toml` says of each key: it is where the settings are documented, and what is made from it cannot
//! say something else.

/// A file with every setting, its default, and what is said about it.
pub const SAMPLE: &str = include_str!("../../config/pgidle.toml");

/// A part of [`SAMPLE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Paragraphs that are about no key: those at the start.
    Text(String),
    /// The head of a table, such as `[listen]`, or of an array of tables, such as `[[rule]]`, and what is said above it.
    Head {
        /// The table's name, without brackets.
        table: String,
        /// Whether there may be several.
        repeats: bool,
        /// What is said about it; empty where nothing is.
        about: String,
    },
    /// A key with its value.
    Key {
        /// The table that it stands in; empty for the root.
        table: String,
        /// Its name.
        name: String,
        /// The value that is shown, as TOML.
        value: String,
        /// Whether that is the default; else the line is a comment, and the value an example.
        is_default: bool,
        /// What is said about it; several keys may share it.
        about: String,
    },
}

/// The parts of [`SAMPLE`], in its order.
pub fn reference() -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut table, mut said, mut about) = (String::new(), Vec::new(), String::new());
    for line in SAMPLE.lines() {
        let comment = line.strip_prefix("# ");
        let setting = comment.unwrap_or(line);
        if let Some(head) = setting.strip_prefix('[').filter(|_| is_head(setting)) {
            table = head.trim_matches(['[', ']']).to_owned();
            parts.push(Part::Head {
                table: table.clone(),
                repeats: head.starts_with('['),
                about: paragraph(&mut said),
            });
            about.clear();
        } else if let Some((name, value)) = key(setting) {
            if !said.is_empty() {
                about = paragraph(&mut said);
            }
            parts.push(Part::Key {
                table: table.clone(),
                name: name.to_owned(),
                value: value.to_owned(),
                is_default: comment.is_none(),
                about: about.clone(),
            });
        } else if let Some(comment) = comment {
            said.push(comment);
        } else if !said.is_empty() {
            parts.push(Part::Text(paragraph(&mut said)));
        }
    }
    parts
}

/// The lines as one text, and none of them any more.
fn paragraph(lines: &mut Vec<&str>) -> String {
    std::mem::take(lines).join(" ")
}

fn is_head(line: &str) -> bool {
    line.ends_with(']') && !line.contains(' ')
}

fn key(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(" = ")?;
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    name.chars().all(is_name).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(wanted: (&str, &str)) -> (String, bool, String) {
        let found = reference().into_iter().find_map(|part| match part {
            Part::Key {
                table,
                name,
                value,
                is_default,
                about,
            } if (&*table, &*name) == wanted => Some((value, is_default, about)),
            Part::Text(_) | Part::Head { .. } | Part::Key { .. } => None,
        });
        found.unwrap()
    }

    #[test]
    fn a_key_has_the_comment_above_it() {
        let (value, is_default, about) = find(("", "drain_timeout"));
        assert_eq!((&*value, is_default), ("\"30s\"", true));
        assert!(about.starts_with("How long a drain"), "{about}");
        let (value, is_default, about) = find(("upstream", "sslkey"));
        assert_eq!((&*value, is_default), ("\"/etc/pgidle/client.key\"", false));
        assert_eq!(about, find(("upstream", "sslcert")).2);
        assert_eq!(find(("rule", "failed")).0, "{ log = \"1min\" }");
    }

    #[test]
    fn nothing_that_is_said_is_lost() {
        let parts = reference();
        let said = parts.iter().map(|part| match part {
            Part::Text(text) => text,
            Part::Head { about, .. } | Part::Key { about, .. } => about,
        });
        let said: Vec<_> = said.flat_map(|text| text.split(' ')).collect();
        for word in SAMPLE.lines().filter_map(|line| {
            let text = line.strip_prefix("# ")?;
            (key(text).is_none() && !is_head(text)).then_some(text)
        }) {
            let words: Vec<_> = word.split(' ').collect();
            assert!(said.windows(words.len()).any(|at| at == words), "{word}");
        }
        assert!(matches!(&parts[0], Part::Text(text) if text.starts_with("Every setting")));
        let rule = parts.iter().find_map(|part| match part {
            Part::Head {
                table,
                repeats,
                about,
            } if table == "rule" => Some((*repeats, about)),
            Part::Text(_) | Part::Head { .. } | Part::Key { .. } => None,
        });
        let (repeats, about) = rule.unwrap();
        assert!(repeats && about.contains("as in pg_hba.conf"), "{about}");
    }
}
