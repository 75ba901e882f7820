//! Lines that are not run: what they name must exist.

use std::fs;
use std::path::Path;

use crate::scene::Scene;

/// Programs that a line may run besides `apb`, `cargo` and the scripts of this repository.
const OTHERS: [&str; 6] = ["cd", "export", "mpirun", "srun", "tail", "torchrun"];
/// Commands of `apb` that have commands of their own.
const GROUPS: [&str; 3] = ["bench", "eval", "session"];

/// Checks every command of a line.
pub fn check(line: &str, repository: &Path, scene: &Scene) -> Result<(), String> {
    for command in commands(line) {
        let program = command.iter().position(|word| !word.contains('='));
        let Some(program) = program else { continue };
        let words = &command[program..];
        let first = words[0].as_str();
        if first == "cargo" {
            check_cargo(words, repository, scene)?;
        } else if first.starts_with("scripts/") {
            check_script(words, repository)?;
        } else if first != "apb" && !OTHERS.contains(&first) {
            return Err(format!("`{first}` is no program that these tests check"));
        }
        // Each `apb` with its arguments, up to the next one: `apb launch -n 2 -- apb generate ..`.
        // Behind a flag the word is a value: `--method apb`.
        let starts =
            |place: usize| words[place] == "apb" && (place == 0 || is_no_flag(&words[place - 1]));
        let mut end = words.len();
        for place in (0..words.len()).rev().filter(|place| starts(*place)) {
            check_apb(&words[place + 1..end], scene)?;
            end = place;
        }
    }
    Ok(())
}

fn is_no_flag(word: &str) -> bool {
    !word.starts_with('-') || word == "--"
}

fn exists(repository: &Path, name: &str) -> Result<(), String> {
    match repository.join(name).exists() {
        true => Ok(()),
        false => Err(format!("{name} is not in the repository")),
    }
}

/// The script must be there, and each flag in its text or in a Python file that scripts run.
fn check_script(words: &[String], repository: &Path) -> Result<(), String> {
    exists(repository, &words[0])?;
    let mut text = fs::read_to_string(repository.join(&words[0])).map_err(|e| e.to_string())?;
    for folder in ["scripts/compare", "scripts/gpu", "tests/cuda"] {
        let Ok(entries) = fs::read_dir(repository.join(folder)) else {
            continue;
        };
        for entry in entries {
            let path = entry.map_err(|e| e.to_string())?.path();
            if path.extension().is_some_and(|extension| extension == "py") {
                text.push_str(&fs::read_to_string(path).map_err(|e| e.to_string())?);
            }
        }
    }
    let flags = words.iter().filter(|word| word.starts_with("--"));
    match flags.into_iter().find(|flag| !text.contains(flag.as_str())) {
        None => Ok(()),
        Some(flag) => Err(format!("{} has no {flag}", words[0])),
    }
}

/// Examples, fuzz targets, folders and features must exist; what `cargo run` hands on is checked as
/// arguments of `apb`.
fn check_cargo(words: &[String], repository: &Path, scene: &Scene) -> Result<(), String> {
    let after = |name: &str| {
        let place = words.iter().position(|word| word == name)?;
        words.get(place + 1)
    };
    let example = after("--example");
    if let Some(name) = example {
        let (library, program) = ("examples", "cli/examples");
        exists(repository, &format!("{library}/{name}.rs"))
            .or_else(|_| exists(repository, &format!("{program}/{name}.rs")))?;
    }
    if let Some(folder) = after("--path") {
        exists(repository, folder)?;
    }
    if words.get(1).is_some_and(|word| word == "fuzz") {
        let target = after("run").ok_or("no fuzz target")?;
        exists(repository, &format!("fuzz/fuzz_targets/{target}.rs"))?;
    }
    for feature in after("--features").into_iter().flat_map(|f| f.split(',')) {
        let manifest = fs::read_to_string(repository.join("cli/Cargo.toml"))
            .map_err(|error| error.to_string())?;
        if !manifest.contains(&format!("\n{feature} = [")) {
            return Err(format!("cli/Cargo.toml has no feature `{feature}`"));
        }
    }
    let handed_on = words.iter().position(|word| word == "--");
    match handed_on {
        Some(place) if example.is_none() && words[1] == "run" => {
            check_apb(&words[place + 1..], scene)
        }
        _ => Ok(()),
    }
}

/// The subcommand and each flag must be in the program's help.
fn check_apb(words: &[String], scene: &Scene) -> Result<(), String> {
    let command = words.first().ok_or("`apb` without a command")?;
    let mut asked = format!("apb {command}");
    if GROUPS.contains(&command.as_str()) {
        asked.push(' ');
        asked.push_str(words.get(1).ok_or("a command is missing")?);
    }
    let help = scene.run(&format!("{asked} --help"), "the help");
    let known: Vec<&str> = help
        .split([' ', ',', '\n', '[', ']', '`', '=', ';', '.'])
        .filter(|word| word.starts_with('-'))
        .collect();
    for word in words.iter().filter(|word| word.len() > 1 && *word != "--") {
        let flag = word.split('=').next().unwrap_or(word);
        if flag.starts_with('-') && !known.contains(&flag) {
            return Err(format!("`{asked} --help` has no {flag}"));
        }
    }
    Ok(())
}

/// The words of each command of a line, without a comment at its end.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut word = String::new();
    let mut quote = None;
    let characters = line.chars().chain([' ']);
    for character in characters {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => word.push(character),
            (None, '"' | '\'') => quote = Some(character),
            (None, '#') if word.is_empty() => break,
            (None, ';' | '|' | '&' | ' ') => {
                if !word.is_empty() {
                    let command = found.last_mut().expect("one is there");
                    command.push(std::mem::take(&mut word));
                }
                if character != ' ' {
                    found.push(Vec::new());
                }
            }
            (None, _) => word.push(character),
        }
    }
    found.retain(|command| !command.is_empty());
    found
}

#[test]
fn lines_are_split_into_words() {
    let found = commands("cd x && A=1 apb y --z \"a b; c\"; d  # e");
    assert_eq!(
        found,
        [
            vec!["cd", "x"],
            vec!["A=1", "apb", "y", "--z", "a b; c"],
            vec!["d"]
        ]
    );
}
