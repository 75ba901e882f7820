//! What the kernels become on CUDA, without a GPU.
//!
//! - `emit-cuda emit FOLDER [NAME]` writes the CUDA C++ of every kernel of the tables (or of those whose
//!   name contains NAME), and `kernels.json` with their launch configurations
//! - `emit-cuda plan` reads problems from standard input and prints their launches
//! - `emit-cuda table` prints the tables of kernels

mod compiler;
mod emit;
mod emit_fused;
mod plan;

use std::error::Error;
use std::path::Path;

use burn_apb::kernels;

fn emit_all(folder: &Path, filter: &str) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let mut emitted = emit::emit(filter)?;
    emitted.extend(emit_fused::emit(filter)?);
    for kernel in &emitted {
        std::fs::write(folder.join(format!("{}.cu", kernel.name)), &kernel.code)?;
    }
    let json = serde_json::to_string_pretty(&emitted)?;
    std::fs::write(folder.join("kernels.json"), json + "\n")?;
    Ok(())
}

fn plan_all() -> Result<(), Box<dyn Error>> {
    for line in std::io::stdin().lines() {
        let launch = plan::launch(&serde_json::from_str(&line?)?)?;
        println!("{}", serde_json::to_string(&launch)?);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["emit", folder] => emit_all(Path::new(folder), ""),
        ["emit", folder, filter] => emit_all(Path::new(folder), filter),
        ["plan"] => plan_all(),
        ["table"] => {
            println!("{}", kernels::tensor_core::table::describe());
            print!("{}", kernels::portable::table::describe());
            Ok(())
        }
        _ => Err("usage: emit-cuda emit FOLDER [NAME] | plan | table".into()),
    }
}
