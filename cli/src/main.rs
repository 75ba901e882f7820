//! The `apb` command line: one file a command, words as in the library.

mod args;
mod charts;
mod commands;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
mod interrupt;
mod memory;
mod output;
mod predict;
mod processes;
mod terminate;
mod variant;

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
    // clap ends the process itself with code 2 on a usage error.
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("APB_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let output = Output::new(cli.json, cli.quiet);
    match run(&cli.command, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("apb: {error}");
            error.exit_code()
        }
    }
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
        Command::Completions(args) => completions::run(args),
    }
}
