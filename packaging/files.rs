//! Makes the files of a package that say what the program says itself: manual pages, shell completions, the configuration.
//!
//! `cargo run --example package_files -- FOLDER`

use std::{env, fs, io, path::Path};

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::roff::{Roff, bold, italic, roman};
use pgidle::{
    cli::Cli,
    config::{Part, SAMPLE, reference},
};

/// Where the package has the schema, by the comment that names it to editors.
const SCHEMA: &str = "#:schema file:///usr/share/pgidle/pgidle.schema.json";

fn main() -> io::Result<()> {
    let folder = env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::other("usage: package_files FOLDER"))?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder.join("man"))?;
    clap_mangen::generate_to(Cli::command(), folder.join("man"))?;
    fs::write(folder.join("man/pgidle.toml.5"), manual())?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Cli::command(), "pgidle", folder)?;
    }
    let (directive, settings) = SAMPLE.split_once('\n').unwrap_or_default();
    if !directive.starts_with("#:schema ") {
        return Err(io::Error::other(
            "config/pgidle.toml does not begin with #:schema",
        ));
    }
    fs::write(folder.join("pgidle.toml"), format!("{SCHEMA}\n{settings}"))
}

/// `pgidle.toml(5)`, which says of each key what `config/pgidle.toml` does.
fn manual() -> String {
    let mut page = Roff::new();
    let version = concat!("pgidle ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["pgidle.toml", "5", "", version]);
    page.control("SH", ["NAME"]);
    page.text([roman("pgidle.toml - the configuration file of pgidle")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("The file is TOML, and is named by "),
        bold("pgidle serve --config"),
        roman(". Without it the defaults hold."),
    ]);
    let mut previous = None;
    for part in reference() {
        match part {
            Part::Text(text) => {
                page.control("PP", []);
                page.text([roman(text)]);
            }
            Part::Head {
                table,
                repeats,
                about,
            } => {
                let head = if repeats {
                    format!("[[{table}]]")
                } else {
                    format!("[{table}]")
                };
                page.control("SH", [&*head]);
                if !about.is_empty() {
                    page.text([roman(about)]);
                }
            }
            Part::Key {
                name,
                value,
                is_default,
                about,
                ..
            } => {
                // Keys that share what is said about them stand together above it.
                let shared = previous
                    .replace(about.clone())
                    .is_some_and(|before| before == about);
                let kind = if is_default { "default" } else { "such as" };
                page.control("TP", []);
                page.text([bold(name), roman(format!(", {kind} ")), italic(value)]);
                page.text([roman(if shared { "See above." } else { &about })]);
            }
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("pgidle"),
        roman("(1), "),
        bold("pgidle-check"),
        roman("(1)"),
    ]);
    page.to_roff()
}
