//! The `apb` command line: one file a command, words as in the library.

mod args;
mod charts;
mod commands;
#[cfg(feature = "cuda")]
mod cuda;
mod cut_file;
mod error;
mod escape;
mod interrupt;
mod json;
mod limits;
mod logs;
mod memory;
mod output;
mod predict;
mod processes;
mod terminate;
mod variant;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{
    bench, chat, completions, convert, convert_heads, demo, doctor, eval, fetch, generate, launch,
    plan, session, trace, train_heads,
};
use crate::error::CliError;
use crate::output::Output;

/// Long prompts, answered fast: Llama and Qwen models on Burn
///
/// Exit codes: 0 done, 1 the task failed, 2 the command or a file it was given cannot be used,
/// 3 a device, a library or the network is missing, 4 a rank failed,
/// 5 the memory does not suffice.
#[derive(Parser)]
#[command(name = "apb", version, propagate_version = true)]
struct Cli {
    /// Print one JSON object on stdout
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no notes on stderr
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Fetch(fetch::Args),
    Convert(convert::Args),
    ConvertHeads(convert_heads::Args),
    TrainHeads(Box<train_heads::Args>),
    Generate(generate::Args),
    Chat(chat::Args),
    #[command(subcommand)]
    Session(session::Command),
    Trace(trace::Args),
    #[command(subcommand)]
    Bench(bench::Command),
    Plan(plan::Args),
    #[command(subcommand)]
    Eval(Box<eval::Command>),
    Launch(launch::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    memory::share_heap();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(answer) => return usage(&answer),
    };
    let output = Output::new(cli.json, cli.quiet);
    cut_file::name_it(cli.json);
    let logging = logs::start();
    match logging.and_then(|()| run(&cli.command, &output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.has_no_reader() => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_printed() {
                output.error(&error);
            }
            error.exit_code()
        }
    }
}

/// Parses the command line. clap quotes arguments as they are: what it refuses, it is asked again with each on one line.
fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse().map_err(|answer| {
        let lines = std::env::args_os().map(|arg| escape::path(Path::new(&arg)));
        Cli::try_parse_from(lines).err().unwrap_or(answer)
    })
}

/// Prints what clap answers in place of a command: help, the version, or what is wrong with the flags.
fn usage(answer: &clap::Error) -> ExitCode {
    // It is left out where the stream is closed.
    let _ = answer.print();
    if !answer.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let given = std::env::args_os().take_while(|arg| arg != "--");
    if given.into_iter().any(|arg| arg == "--json") {
        let text = answer.render().to_string();
        let message = text.trim_start_matches("error: ").trim_end();
        let object = CliError::usage(message.to_owned()).to_json();
        let _ = Output::new(true, true).result(&object, |_| Ok(()));
    }
    CliError::usage("").exit_code()
}

fn run(command: &Command, output: &Output) -> Result<(), CliError> {
    burn_apb::kernels::simd_name().map_err(CliError::usage)?;
    match command {
        Command::Demo(args) => demo::run(args, output),
        Command::Fetch(args) => fetch::run(args, output),
        Command::Convert(args) => convert::run(args, output),
        Command::ConvertHeads(args) => convert_heads::run(args, output),
        Command::TrainHeads(args) => train_heads::run(args, output),
        Command::Generate(args) => generate::run(args, output),
        Command::Chat(args) => chat::run(args, output),
        Command::Session(command) => session::run(command, output),
        Command::Trace(args) => trace::run(args, output),
        Command::Bench(command) => bench::run(command, output),
        Command::Plan(args) => plan::run(args, output),
        Command::Eval(command) => eval::run(command, output),
        Command::Launch(args) => launch::run(args),
        Command::Doctor(args) => doctor::run(args, output),
        Command::Completions(args) => completions::run(args, output),
    }
}
