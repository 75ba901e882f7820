//! Ranks as processes over NCCL, as far as one GPU goes: NCCL gives no GPU to two processes.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::Duration;

use burn::tensor::Device;
use burn_apb::ranks::{Environment, JoinOptions, TransportKind, World, nccl_version};

use super::setup::{device, on_cpu};
use super::suite;
use super::traces::apb;

/// Set where this program was started by a test here.
const STARTED: &str = "APB_TEST_NCCL";

/// Whether this machine has NCCL; prints so where not.
fn found() -> bool {
    match nccl_version() {
        Ok(version) => println!("NCCL {version}"),
        Err(ref error) => println!("skipped: {error}"),
    }
    nccl_version().is_ok()
}

/// The transport suite in a world of one process: everything but sends between two. Tensors of the GPU go
/// as they are, those of the CPU by way of the GPU.
#[test]
fn nccl_transport() {
    if on_cpu() || device().is_none() || !found() {
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let done = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "nccl::process", "--nocapture"])
        .env(STARTED, "1")
        .envs([("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")])
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .output()
        .expect("it starts");
    let stdout = String::from_utf8_lossy(&done.stdout);
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("all exchanged"), "{stdout}{stderr}");
}

/// The process that [`nccl_transport`] starts; nothing in an ordinary run of the tests.
#[test]
fn process() {
    if std::env::var_os(STARTED).is_none() {
        return;
    }
    let environment = Environment::detect().expect("numbers").expect("a rank");
    let options = JoinOptions {
        timeout: Duration::from_secs(30),
        transport: TransportKind::Nccl { device: 0 },
        ..JoinOptions::default()
    };
    let world = World::join(&environment, options).expect("joined");
    for device in [Device::cuda(0), Device::flex()] {
        let group = |each| world.group(each).expect("even");
        suite::run(&device, group, 1, &[1, 2]);
    }
    world.leave().expect("left");
    println!("all exchanged");
}

/// Where there is no NCCL, the first of several processes prints how to get it, and all exit with code 3.
#[test]
fn ranks_on_gpus_need_nccl() {
    if nccl_version().is_ok() {
        println!("skipped: this machine has NCCL");
        return;
    }
    for process in ["0", "1"] {
        let done = Command::new(apb())
            .args(["generate", "--device", "cuda", "--method", "apb"])
            .args(["--model", "none", "--document", "none", "--query", "What?"])
            .envs([
                ("RANK", process),
                ("WORLD_SIZE", "2"),
                ("LOCAL_RANK", process),
            ])
            .envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")])
            .output()
            .expect("apb starts");
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(3), "{stderr}");
        match process {
            "0" => assert!(stderr.contains("nvidia-nccl-cu12"), "{stderr}"),
            // Only the first prints it.
            _ => assert!(stderr.is_empty(), "{stderr}"),
        }
    }
}
