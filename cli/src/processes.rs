//! Running a command by one process or several: output, agreement, exit codes.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use burn_apb::apb::discard_unfinished;
use burn_apb::ranks::{Environment, JoinOptions, Peer, RankError, RankOrder, World};
use serde_json::{Value, json};

use crate::args::{Compute, Processes};
use crate::error::{CliError, RANK_FAILED};
use crate::output::Output;
use crate::{escape, terminate};

/// Longest wait for another rank where none is given, in seconds.
const TIMEOUT: u64 = 60;

/// This process's own log, with `--rank-logs`.
static LOG: OnceLock<Mutex<File>> = OnceLock::new();

/// Writes a line to this process's log, where there is one.
pub fn log(line: &str) {
    if let Some(log) = LOG.get() {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        // The command goes on without a log that cannot be written.
        let _ = writeln!(log, "{line}");
    }
}

/// The folder and ranks of a save that is not yet complete.
static UNFINISHED: OnceLock<(PathBuf, usize)> = OnceLock::new();

/// Removes the files of a save of `ranks` ranks into `folder` if the process ends before it is
/// complete.
pub fn discard_at_end(folder: &Path, ranks: usize) {
    let _ = UNFINISHED.set((folder.into(), ranks));
}

/// Removes the files of an incomplete save.
fn discard() {
    if let Some((folder, ranks)) = UNFINISHED.get() {
        discard_unfinished(folder, *ranks);
    }
}

/// Runs a command in a world of one process, or of those that were started together.
///
/// Process 0 prints. An error that all processes have is printed once and has its own exit code; the
/// loss of a rank is printed by every process, and all end with code 4.
pub fn run(
    flags: &Processes,
    compute: &Compute,
    output: &Output,
    work: impl FnOnce(&mut World, &Output) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let environment = Environment::detect()?;
    if environment.is_none() {
        flags.check_alone()?;
    }
    let Some(environment) = environment.filter(|found| found.processes > 1) else {
        return work(&mut World::single(), output);
    };
    if let Some(folder) = &flags.rank_logs {
        open_log(folder, environment.process)?;
    }
    let first = environment.process == 0;
    let output = if first { *output } else { output.silent() };
    let over = match compute.exchange(&environment) {
        Ok(over) => over,
        // All processes of a machine have the same error: one prints it.
        Err(error) if first => return Err(error),
        Err(error) => World::single().exit(error.code()),
    };
    let options = JoinOptions {
        transport: over,
        rank_order: flags.rank_order.map(RankOrder::from).unwrap_or_default(),
        timeout: Duration::from_secs(
            flags
                .timeout
                .map_or(TIMEOUT, |seconds| seconds.get().into()),
        ),
        rendezvous: flags
            .rendezvous
            .clone()
            .or_else(|| environment.rendezvous.clone()),
        on_failure: Some(Box::new(move |me, error| {
            let error = CliError::from(error.clone());
            print_error(&output, &me.to_string(), &error);
            discard();
            ControlFlow::Break(RANK_FAILED)
        })),
        terminated: terminate::flag(),
    };
    let mut world = match World::join(&environment, options) {
        Ok(world) => world,
        // All processes have the same error: one prints it.
        Err(error @ RankError::Unavailable { .. }) if first => return Err(error.into()),
        Err(error @ RankError::Unavailable { .. }) => {
            World::single().exit(CliError::from(error).code())
        }
        Err(error) => {
            let who = format!("process {}", environment.process);
            print_error(&output, &who, &error.into());
            World::single().exit(RANK_FAILED);
        }
    };
    report_panics(&world);
    log(&format!(
        "{} joined {} processes",
        world.me(),
        world.processes()
    ));
    let result = work(&mut world, &output);
    let me = world.me().to_string();
    let Err(error) = result.and_then(|()| Ok(world.leave()?)) else {
        return Ok(());
    };
    if error.is_shared() {
        // No process ends, and is taken for lost, before all have the same error.
        if error.is_rank() || first {
            print_error(&output, &me, &error);
        }
        world.leave_after_error();
        world.exit(error.code());
    }
    if !error.is_rank() {
        world.fail(&error.to_string());
    } else if !world.claim_failure_report() {
        // The supervising thread has reported it and ends the process.
        std::thread::sleep(Duration::MAX);
    }
    print_error(&output, &me, &error);
    discard();
    world.exit(RANK_FAILED)
}

/// Prints the error that ends this process, and writes it to its log.
fn print_error(output: &Output, who: &str, error: &CliError) {
    log(&format!("apb: {who}: {error}"));
    output.error_of(who, error);
}

/// Reports a panic of the command's own thread to the other processes before this one ends.
fn report_panics(world: &World) {
    let reporter = world.failure_reporter();
    let usual = std::panic::take_hook();
    let main = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        log(&format!("apb: {panic}"));
        // A panic of a worker thread is raised again on the thread that waits for it.
        if std::thread::current().id() == main {
            reporter.fail(&format!("it panicked: {panic}"));
            discard();
            reporter.exit(RANK_FAILED);
        }
    }));
}

fn open_log(folder: &Path, process: usize) -> Result<(), CliError> {
    let path = folder.join(format!("process-{process}.log"));
    let file = std::fs::create_dir_all(folder).and_then(|()| File::create(&path));
    let file = file.map_err(|e| {
        CliError::usage(format!("cannot write {}: {e}", escape::path(&path))).at(&path)
    })?;
    let _ = LOG.set(Mutex::new(file));
    Ok(())
}

/// The result of a part of the command that every process does. The same error of all processes is the
/// command's; an error of some is the failure of those ranks.
pub fn agree<T>(world: &mut World, mine: Result<T, CliError>) -> Result<T, CliError> {
    if world.is_single() {
        return mine;
    }
    let word = match &mine {
        Ok(_) => Value::Null,
        Err(error) => json!({ "code": error.code(), "text": error.to_string() }),
    };
    let all = world.all_gather_values(word)?;
    let Some(failed) = all.iter().position(|word| !word.is_null()) else {
        return mine;
    };
    let text = all[failed]["text"].as_str().unwrap_or_default().to_owned();
    if all.iter().all(|word| *word == all[failed]) {
        return Err(CliError::agreed(
            all[failed]["code"].as_u64().unwrap_or(1),
            text,
        ));
    }
    Err(CliError::rank(RankError::Failed {
        peer: Box::new(world.peers().swap_remove(failed)),
        reason: text,
    })
    .known())
}

/// The result of work that process 0 alone does; the others wait without a timeout. None on the others.
pub fn on_first<T>(
    world: &mut World,
    work: impl FnOnce() -> Result<T, CliError>,
) -> Result<Option<T>, CliError> {
    if world.is_single() {
        return work().map(Some);
    }
    let mine = (world.process() == 0).then(work).transpose();
    let word = match &mine {
        Ok(_) => Value::Null,
        Err(error) => json!({ "code": error.code(), "text": error.to_string() }),
    };
    let all = world.all_gather_values_untimed(word)?;
    match (mine, all[0].is_null()) {
        (mine, true) => mine,
        (Err(error), false) => Err(error.known()),
        (Ok(_), false) => Err(CliError::agreed(
            all[0]["code"].as_u64().unwrap_or(1),
            all[0]["text"].as_str().unwrap_or_default().to_owned(),
        )),
    }
}

/// Compares the settings that the processes were started with; all get the same error.
pub fn compare(world: &mut World, fingerprint: &[(&str, Option<String>)]) -> Result<(), CliError> {
    world.compare(fingerprint).map_err(|error| match error {
        RankError::Differs { .. } => CliError::rank(error).known(),
        error => CliError::from(error),
    })
}

/// The measurements of every process, with its ranks, host and process id.
pub fn reports(world: &mut World, mine: Value) -> Result<Vec<Value>, CliError> {
    let all = world.all_gather_values(mine)?;
    let named = all
        .into_iter()
        .zip(world.peers())
        .map(|(mut report, peer)| {
            let Peer {
                ranks, host, pid, ..
            } = peer;
            report["ranks"] = json!(ranks.collect::<Vec<_>>());
            report["host"] = json!(host);
            report["pid"] = json!(pid);
            report
        });
    Ok(named.collect())
}
