//! One of four ranks fails in the middle of a prefill: the others end in time, with its name.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use burn::tensor::Device;
use burn_apb::apb::{
    CompressorConfig, Document, Method, PrefillConfig, Request, Session, compressor,
};
use burn_apb::model::{Architecture, DecoderConfig};
use burn_apb::ranks::{Environment, JoinOptions, RankError, World};

use crate::launcher::{TIMEOUT, task, transport_kind};

const RANKS: usize = 4;
/// What may pass on top of the timeout.
const MARGIN: Duration = Duration::from_secs(2);
/// The layer after which the fault happens.
const LAYER: usize = 2;
/// Set to repeat every fault so often.
const REPEAT: &str = "APB_TEST_REPEAT";

/// The code that the survivors end with.
const RANK_FAILED: i32 = 4;

/// Set by SIGTERM, which mpirun sends to all once one has ended.
fn terminated() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    extern "C" fn record(_: libc::c_int) {
        if let Some(flag) = FLAG.get() {
            flag.store(true, Ordering::Relaxed);
        }
    }
    let flag = FLAG.get_or_init(Arc::default).clone();
    let handler: extern "C" fn(libc::c_int) = record;
    // SAFETY: the handler reads an initialised cell and stores to an atomic.
    unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
    flag
}

/// Milliseconds since some time that all processes share.
fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_millis()
}

/// One rank of a prefill in which another, or this one, fails.
pub fn process(environment: &Environment, fault: &str) {
    let mut words = fault.split(' ');
    let (kind, rank, folder) = (words.next(), words.next(), words.next());
    let (kind, folder) = (
        kind.expect("a kind"),
        PathBuf::from(folder.expect("a folder")),
    );
    let faulty = rank.expect("a rank").parse() == Ok(environment.process);
    let me = environment.process;
    std::fs::write(
        folder.join(format!("pid-{me}")),
        std::process::id().to_string(),
    )
    .expect("kept");
    let end = {
        let folder = folder.clone();
        move |error: &RankError| {
            let line = format!("{}\n{error}\n", now());
            std::fs::write(folder.join(format!("end-{me}")), line).expect("kept");
        }
    };
    let options = JoinOptions {
        timeout: TIMEOUT,
        rendezvous: None,
        on_failure: Some(Box::new({
            let end = end.clone();
            move |_, error| {
                end(error);
                ControlFlow::Break(RANK_FAILED)
            }
        })),
        terminated: terminated(),
        transport: transport_kind(environment),
        ..JoinOptions::default()
    };
    let mut world = World::join(environment, options).expect("joined");
    let length = if faulty && kind == "length" { 399 } else { 400 };
    let compared = world.compare(&[("tokens", Some(length.to_string()))]);
    let done = compared.map_err(Box::from).and_then(|()| {
        prefill(&mut world, &mut |session, layer| match layer {
            Some(LAYER) if faulty => fail(kind, &folder),
            // After the prefill all ask but one, who does something else.
            None if kind == "other" && faulty => {
                mark(&folder);
                session
                    .expect("prefilled")
                    .broadcast_tokens(&[1])
                    .map(|_| ())
                    .map_err(|e| e.to_string())
            }
            _ => Ok(()),
        })
    });
    match done {
        Ok(()) => world.leave().expect("left"),
        Err(error) => match error.downcast_ref::<RankError>() {
            Some(error) if world.claim_failure_report() => {
                end(error);
                world.exit(RANK_FAILED);
            }
            // The guard ends this process.
            Some(_) => std::thread::sleep(Duration::from_secs(60)),
            None => panic!("{error}"),
        },
    }
}

fn mark(folder: &Path) {
    std::fs::write(folder.join("fault"), now().to_string()).expect("kept");
}

/// What becomes of the faulty rank.
fn fail(kind: &str, folder: &Path) -> Result<(), String> {
    mark(folder);
    match kind {
        // SAFETY (of both): signals to this process itself.
        "kill" => drop(unsafe { libc::raise(libc::SIGKILL) }),
        "stop" => drop(unsafe { libc::raise(libc::SIGSTOP) }),
        "sleep" => std::thread::sleep(Duration::from_secs(60)),
        "panic" => panic!("as the test wants it"),
        "memory" => {
            let limit = libc::rlimit {
                rlim_cur: 1 << 20,
                rlim_max: 1 << 20,
            };
            // SAFETY: a limit for this process, read before the call returns.
            unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
            // Opaque: memory that is only read back could be optimised away.
            let more = std::hint::black_box(vec![1u8; 64 << 20]);
            assert_eq!(more[more.len() / 2], 1);
        }
        _ => mark(folder),
    }
    Ok(())
}

type Step<'a> = dyn FnMut(Option<&mut Session>, Option<usize>) -> Result<(), String> + 'a;

/// Prefills a document with all ranks and asks; `step` is called after each layer and after the prefill.
fn prefill(world: &mut World, step: &mut Step<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    device.seed(7);
    let model = DecoderConfig::new(Architecture::Llama, 64, 32, 48, 6, 4, 2, 8);
    let decoder = Arc::new(model.init(&device));
    let mut group = world.group(RANKS)?;
    let document = Document::new((0..400).map(|i| i * 7 % 64).collect::<Vec<u32>>());
    let document = document.with_anchor_query([1, 2, 3]);
    let config =
        PrefillConfig::new(Method::Apb, RANKS).with_compressor(CompressorConfig::QueryAware);
    let plan = config.plan(&document, &model)?;
    let rank_error = |error| match error {
        burn_apb::apb::SessionError::Rank(error) => Box::<dyn std::error::Error>::from(error),
        other => other.into(),
    };
    let mine = (world.process() == 0).then(|| {
        let (document, plan) = (document.clone(), plan.clone());
        Request::from_tokens(document, plan, vec![4, 5], 18, 1024)
    });
    let request = Request::broadcast(mine, &mut group).map_err(rank_error)?;
    let (plan, dtype) = (&request.plan, burn::tensor::FloatDType::F32);
    let scorer = compressor::load(plan, &model, dtype, &device)?;
    let mut session = Session::new(decoder.clone(), request.session).with_group(group);
    let layers = Arc::new(Mutex::new(0));
    let mut observer = |_, _| {
        let mut layer = layers.lock().expect("one thread");
        *layer += 1;
        match step(None, Some(*layer)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    session
        .prefill_with(&request.document, plan, scorer.as_deref(), &mut observer)
        .map_err(rank_error)?;
    step(Some(&mut session), None)?;
    session.extend(&request.query).map_err(rank_error)?;
    Ok(())
}

/// One process of an application that joins a world as a library does: it takes no signal, and when the last
/// process drops its world in the middle of a prefill the others get an error, and go on without it.
pub fn process_that_lives_on(environment: &Environment, folder: &Path) {
    let me = environment.process;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let options = JoinOptions {
        timeout: TIMEOUT,
        on_failure: Some(Box::new(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            ControlFlow::Continue(())
        })),
        transport: transport_kind(environment),
        ..JoinOptions::default()
    };
    let mut world = World::join(environment, options).expect("joined");
    // SAFETY: reads the handler of a signal.
    let handler = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGTERM, std::ptr::null(), &raw mut action);
        action.sa_sigaction
    };
    assert_eq!(handler, libc::SIG_DFL);
    if me == RANKS - 1 {
        let stopped = prefill(&mut world, &mut |_, layer| match layer {
            Some(LAYER) => Err("enough".into()),
            _ => Ok(()),
        });
        assert!(stopped.is_err());
        drop(world);
    } else {
        let error = prefill(&mut world, &mut |_, _| Ok(())).expect_err("a rank is lost");
        let text = error.to_string();
        assert!(error.is::<RankError>(), "{text}");
        assert!(world.group(RANKS).expect("a group").check().is_err());
        drop(world);
        // The process is as it was: it computes alone.
        prefill(&mut World::single(), &mut |_, _| Ok(())).expect("a prefill");
        let since = Instant::now();
        while calls.load(Ordering::Relaxed) == 0 && since.elapsed() < TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
        }
        let line = format!("{}\n{text}\n", calls.load(Ordering::Relaxed));
        std::fs::write(folder.join(format!("end-{me}")), line).expect("kept");
    }
    // The first to end has mpirun end the rest.
    let all = || (0..RANKS - 1).all(|rank| folder.join(format!("end-{rank}")).exists());
    let since = Instant::now();
    while !all() && since.elapsed() < TIMEOUT * 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_library_returns_the_error_and_lives_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let done = task(RANKS, &format!("library {}", path.display())).output();
    let done = done.expect("it starts");
    let stderr = String::from_utf8_lossy(&done.stderr);
    for survivor in 0..RANKS - 1 {
        let end = std::fs::read_to_string(path.join(format!("end-{survivor}")));
        let end = end.unwrap_or_default();
        let (calls, message) = end.split_once('\n').unwrap_or_default();
        assert_eq!(calls, "1", "survivor {survivor}: {end:?}\n{stderr}");
        assert!(message.contains("rank 3 (host"), "{survivor}: {message}");
        assert!(message.contains("dropped its world"), "{message}");
    }
}

/// Whether the survivors of a fault can know which rank it came from.
#[derive(Clone, Copy)]
pub enum Cause {
    Named,
    /// NCCL gives an asynchronous error to all ranks of a group alike.
    #[allow(dead_code, reason = "MPI has no such errors")]
    Unknown,
}

/// Runs a fault, as often as is asked for, and checks how every survivor ended.
pub fn check(kind: &str, expected: &str, cause: Cause) {
    let repeat = std::env::var(REPEAT)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    for run in 0..repeat {
        let rank = run % RANKS;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        let done = task(RANKS, &format!("fault {kind} {rank} {}", path.display())).output();
        let done = done.expect("it starts");
        let stderr = String::from_utf8_lossy(&done.stderr);
        let label = format!("{kind}, rank {rank}, run {run}");
        assert!(!done.status.success(), "{label}");
        let read = |name: String| std::fs::read_to_string(path.join(name)).unwrap_or_default();
        let fault: Option<u128> = read("fault".into()).parse().ok();
        for survivor in (0..RANKS).filter(|survivor| *survivor != rank) {
            let end = read(format!("end-{survivor}"));
            let (time, message) = end.split_once('\n').unwrap_or_default();
            let named = match cause {
                Cause::Named => message.contains(&format!("rank {rank} (host")),
                Cause::Unknown => message.contains("rank "),
            };
            assert!(named, "{label}, survivor {survivor}: {message:?}\n{stderr}");
            assert!(
                message.contains(expected),
                "{label}, survivor {survivor}: {message}"
            );
            if let Some(fault) = fault {
                let took = time.parse::<u128>().expect("a time").saturating_sub(fault);
                let allowed = (TIMEOUT + MARGIN).as_millis();
                assert!(
                    took <= allowed,
                    "{label}, survivor {survivor}: {took} ms of {allowed}"
                );
            }
        }
        for process in 0..RANKS {
            let pid = read(format!("pid-{process}"));
            // mpirun does not wait for the last of them to give its memory back.
            let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let gone = || matches!(state(), state if state.is_empty() || state.contains(") Z"));
            let waiting = Instant::now();
            while !gone() && waiting.elapsed() < MARGIN {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(
                gone(),
                "{label}: process {process} is left behind: {}",
                state()
            );
        }
    }
}

macro_rules! faults {
    ($($name:ident: $kind:literal, $expected:literal;)*) => {$(
        #[test]
        fn $name() {
            check($kind, $expected, Cause::Named);
        }
    )*};
}

faults! {
    killed: "kill", "ended";
    stopped: "stop", "no heartbeat from";
    asleep: "sleep", "did not take part";
    panicked: "panic", "panicked";
    out_of_memory: "memory", "ended";
    of_another_length: "length", "differs from";
    doing_something_else: "other", "is at";
}
