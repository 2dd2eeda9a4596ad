//! The tour of README.md, as it stands there: what it says to type is typed, and what it says to come comes.

use std::{fmt::Write as _, fs, net::TcpListener, path::Path};

use crate::support::{dba::Dba, end, in_repository, leashed, server::newest, wait_for};

/// A command, and what it prints.
#[derive(Debug, Default)]
struct Step {
    command: String,
    expected: String,
}

/// The tour's steps, and the file that it begins with.
fn tour(readme: &str) -> (Vec<Step>, String) {
    let (_, tour) = readme.split_once("\n## A tour\n").unwrap();
    let (tour, _) = tour.split_once("\n## ").unwrap();
    let (mut steps, mut file) = (Vec::<Step>::new(), String::new());
    let mut block = "";
    for line in tour.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            block = kind;
        } else if block == "toml" {
            writeln!(file, "{line}").unwrap();
        } else if block == "console" {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step {
                    command: command.to_owned(),
                    expected: String::new(),
                }),
                (None, Some(step)) => writeln!(step.expected, "{line}").unwrap(),
                (None, None) => panic!("{line:?} comes before any command"),
            }
        }
    }
    (steps, file)
}

/// What a person would type. Who only looks does so until there is what is expected: no one types as fast as a script.
fn script(steps: &[Step]) -> String {
    let mut script = "trap 'kill $(jobs -p)' EXIT\nexec >printed 2>errors\n".to_owned();
    for (number, Step { command, expected }) in steps.iter().enumerate() {
        writeln!(script, "echo @@@{number}").unwrap();
        if !command.contains("SHOW") && !command.contains("curl") {
            writeln!(script, "{command}").unwrap();
            continue;
        }
        let expected = expected.trim_end().replace('\'', "'\\''");
        write!(
            script,
            "for again in $(seq 600); do\n\
             seen=$({command} | sed 's/ *$//')\n\
             [ \"$seen\" = '{expected}' ] && break\n\
             sleep 0.1\n\
             done\n\
             echo \"$seen\"\n"
        )
        .unwrap();
    }
    script
}

/// What was printed, by the step that did.
fn printed(folder: &Path) -> Vec<String> {
    let all = fs::read_to_string(folder.join("printed")).unwrap_or_default();
    let parts = all.split("@@@").skip(1);
    let parts = parts.map(|part| part.split_once('\n').map_or("", |(_, said)| said));
    parts.map(trimmed).collect()
}

fn trimmed(text: &str) -> String {
    let lines = text.trim_end().lines().map(str::trim_end);
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_tour_works_as_written() {
    let database = newest().database();
    let mut dba = Dba::new(&database);
    dba.run("CREATE TABLE orders (id serial PRIMARY KEY, item text)");
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = ports.map(|port| port.local_addr().unwrap().port().to_string());
    let readme = fs::read_to_string(in_repository("README.md")).unwrap();
    let here = |text: &str| {
        let text = text.replace(
            "127.0.0.1:5432",
            &format!("{}:{}", database.host, database.port),
        );
        let text = text.replace("-p 5432", &format!("-p {}", database.port));
        let text = text.replace("6432", &ports[0]).replace("9187", &ports[1]);
        text.replace("-U app shop", &format!("-U postgres {}", database.database))
    };
    let (mut steps, file) = tour(&readme);
    assert!(steps.len() > 10, "{steps:?}");
    for step in &mut steps {
        step.command = here(&step.command);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pgidle.toml"), here(&file)).unwrap();
    fs::write(folder.path().join("tour"), script(&steps)).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_pgidle")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = leashed("bash")
        .arg("tour")
        .current_dir(folder.path())
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("PSQLRC", "/nonexistent")
        .env("PAGER", "cat")
        .spawn()
        .unwrap();
    let ended = wait_for("the end of the tour", || child.try_wait().unwrap());
    end(&mut child);
    let errors = fs::read_to_string(folder.path().join("errors")).unwrap();
    let printed = printed(folder.path());
    for (number, step) in steps.iter().enumerate() {
        let seen = printed.get(number).map_or("nothing", String::as_str);
        assert_eq!(seen, trimmed(&step.expected), "{}\n{errors}", step.command);
    }
    assert!(ended.success(), "{errors}");
}
