//! The glossary of ARCHITECTURE.md: each word stands for a type that exists.

use super::{File, code, enforce, tree};

/// The words of the glossary, each with the type that it names.
fn glossary(text: &str) -> Vec<(&str, &str)> {
    let table = text
        .lines()
        .skip_while(|line| *line != "| word | what it means here | where |");
    let rows = table.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let word = cells.next().unwrap_or_default();
        let place = cells.nth(1).unwrap_or_default();
        (word, place.trim_matches('`'))
    })
    .collect()
}

fn glossary_names_types(file: &File) -> Vec<String> {
    if file.path != "ARCHITECTURE.md" {
        return Vec::new();
    }
    let words = glossary(&file.text);
    if words.is_empty() {
        return vec!["ARCHITECTURE.md: no glossary".to_owned()];
    }
    let sources = tree().into_iter().filter(|f| f.path.starts_with("src/"));
    let sources: String = sources.map(|file| code(&file.text)).collect();
    let declared = |name: &str| {
        ["struct", "enum"].iter().any(|kind| {
            [" {", "(", "<", ";"]
                .iter()
                .any(|end| sources.contains(&format!("{kind} {name}{end}")))
        })
    };
    let unknown = words.into_iter().filter(|(_, name)| !declared(name));
    unknown
        .map(|(word, name)| format!("ARCHITECTURE.md: {word}: there is no type `{name}` in src"))
        .collect()
}

#[test]
fn the_glossary_names_types_that_exist() {
    let table = "| word | what it means here | where |\n|---|---|---|\n";
    enforce(
        glossary_names_types,
        &[
            ("ARCHITECTURE.md", "No table."),
            (
                "ARCHITECTURE.md",
                &format!("{table}| a | b | `Nothing` |\n"),
            ),
        ],
    );
}
