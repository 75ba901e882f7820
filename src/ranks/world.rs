//! The processes that were started together.

use std::time::Duration;

use serde_json::{Value, json};

#[cfg(any(feature = "mpi", feature = "nccl"))]
use super::signal;
use super::watch::{OnFailure, Watch};
use super::{Environment, Peer, RankError, RankGroup, Transport};

/// What moves tensors between processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exchange {
    /// MPI, through the host's memory (feature `mpi`).
    #[default]
    Mpi,
    /// NCCL, from GPU to GPU (feature `nccl`). The processes meet at `MASTER_ADDR:MASTER_PORT`; where that
    /// is not loopback, `APB_RANK_TOKEN` holds a secret that all share.
    Nccl {
        /// The GPU of this process, which no other process takes.
        device: usize,
    },
}

/// How processes find each other, and how long they wait.
pub struct JoinOptions {
    /// Longest wait for another process in one exchange, and longest silence of one.
    pub timeout: Duration,
    /// An address of the network that joins the machines, the first one's for instance; none: all
    /// processes are on this machine.
    pub meeting: Option<String>,
    /// What moves tensors between the processes.
    pub over: Exchange,
    /// Called with the reason before the process ends for ranks that were lost.
    pub on_failure: OnFailure,
}

/// Least time that processes have to start in, however short the timeout: it is no exchange, and MPI alone
/// may take seconds on a busy machine.
#[cfg(any(feature = "mpi", feature = "nccl"))]
const LEAST_START: Duration = Duration::from_secs(60);

/// Longest wait for another process where none is given, in seconds.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

impl Default for JoinOptions {
    /// A minute, this machine only, MPI; a failure is printed.
    fn default() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT,
            meeting: None,
            over: Exchange::default(),
            on_failure: Box::new(|me, error| eprintln!("{me}: {error}")),
        }
    }
}

/// The processes that were started together, as one of them sees them.
///
/// Made by [`join`](Self::join), left by [`leave`](Self::leave). Once joined, SIGTERM no longer ends
/// the process at once: it leaves a moment to say which rank was lost.
#[derive(Debug)]
pub struct World {
    watch: Watch,
    rounds: u64,
    engine: Engine,
}

/// What was started to move tensors; nothing in a build without any.
#[derive(Debug)]
enum Engine {
    #[cfg(feature = "mpi")]
    Mpi(super::mpi::Start),
    #[cfg(feature = "nccl")]
    Nccl(super::nccl::Start),
}

#[cfg_attr(
    not(feature = "nccl"),
    allow(
        unused_variables,
        reason = "MPI ends in its own time, and a build without an engine never starts"
    )
)]
impl Engine {
    fn transport(&self, watch: &Watch) -> Result<Box<dyn Transport>, RankError> {
        match *self {
            #[cfg(feature = "mpi")]
            Self::Mpi(ref mpi) => Ok(Box::new(mpi.transport(watch.clone()))),
            #[cfg(feature = "nccl")]
            Self::Nccl(ref nccl) => Ok(Box::new(nccl.transport(watch.clone())?)),
        }
    }

    /// Says goodbye to the library, which waits for all processes.
    fn finish(&self, watch: &Watch) -> Result<(), RankError> {
        match *self {
            #[cfg(feature = "mpi")]
            Self::Mpi(ref mpi) => mpi.finish(),
            #[cfg(feature = "nccl")]
            Self::Nccl(ref nccl) => nccl.finish(watch.timeout()),
        }
    }
}

impl World {
    /// Connects this process with all others, over what the options name.
    ///
    /// # Errors
    ///
    /// [`RankError::Unavailable`] in a build without it, on a machine without its library, or where the
    /// launcher starts no MPI; [`RankError::Connect`] when a process does not come within the timeout.
    pub fn join(environment: &Environment, options: JoinOptions) -> Result<Self, RankError> {
        match options.over {
            Exchange::Mpi => Self::join_mpi(environment, options),
            Exchange::Nccl { device } => Self::join_nccl(environment, options, device),
        }
    }

    #[cfg(feature = "nccl")]
    fn join_nccl(
        environment: &Environment,
        options: JoinOptions,
        device: usize,
    ) -> Result<Self, RankError> {
        signal::listen();
        let JoinOptions {
            timeout,
            meeting,
            on_failure,
            ..
        } = options;
        let times = (timeout.max(LEAST_START), timeout);
        let (engine, watch) = super::nccl::Start::new(
            environment,
            host(),
            device,
            meeting.as_deref(),
            times,
            on_failure,
        )?;
        Ok(Self {
            watch,
            rounds: 0,
            engine: Engine::Nccl(engine),
        })
    }

    #[cfg(not(feature = "nccl"))]
    fn join_nccl(_: &Environment, _: JoinOptions, _: usize) -> Result<Self, RankError> {
        Err(RankError::Unavailable {
            reason:
                "this build has no NCCL; build it with `cargo install --path . --features nccl`"
                    .into(),
        })
    }

    /// Starts MPI and connects this process with all others.
    #[cfg(feature = "mpi")]
    fn join_mpi(environment: &Environment, options: JoinOptions) -> Result<Self, RankError> {
        use std::net::SocketAddr;

        use super::watch::{listen, own_address};

        /// Bytes of an entry of the directory, in JSON.
        const ENTRY: usize = 512;
        /// Bytes of the token that keeps strangers out.
        const TOKEN: usize = 32;

        if environment.launcher == super::Launcher::Torchrun && environment.processes > 1 {
            return Err(RankError::Unavailable {
                reason: "torchrun starts no MPI; on CPUs start the ranks with `apb launch -n N -- \
                         apb ..`, mpirun or srun"
                    .into(),
            });
        }
        signal::listen();
        let start = options.timeout.max(LEAST_START);
        let mpi = super::mpi::Start::new(start)?;
        if mpi.processes != environment.processes {
            return Err(RankError::Unavailable {
                reason: format!(
                    "{} started {} processes, but MPI knows of {}: this apb was built with another \
                     MPI than the launcher's; build it again with that one's mpicc first in PATH, or \
                     use `srun --mpi=pmix`",
                    environment.launcher.name(),
                    environment.processes,
                    mpi.processes
                ),
            });
        }
        let address = own_address(options.meeting.as_deref())?;
        let listener = listen(address)?;
        let connect = |error: std::io::Error| RankError::Connect {
            reason: error.to_string(),
        };
        let peer = Peer {
            process: mpi.process,
            ranks: mpi.process..mpi.process + 1,
            host: host(),
            pid: std::process::id(),
        };
        let entry = json!({ "peer": peer, "address": listener.local_addr().map_err(connect)? });
        let directory: Vec<(Peer, SocketAddr)> = (mpi.gather(&entry.to_string(), ENTRY)?.iter())
            .map(|entry| {
                let entry: Value = serde_json::from_str(entry)?;
                let peer = serde_json::from_value(entry["peer"].clone())?;
                Ok((peer, serde_json::from_value(entry["address"].clone())?))
            })
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|error| RankError::Connect {
                reason: error.to_string(),
            })?;
        let hosts = directory
            .iter()
            .filter(|(other, _)| other.host != peer.host)
            .count();
        if hosts > 0 && options.meeting.is_none() {
            return Err(RankError::Connect {
                reason: format!(
                    "{hosts} of them run on other machines than {}; say where they can meet with \
                     --rendezvous ADDRESS or MASTER_ADDR, an address of the network between them",
                    peer.host
                ),
            });
        }
        let token: [u8; TOKEN] = rand::random();
        let token = crate::hex::encode(&token);
        let token = mpi.broadcast(&token)?;
        let JoinOptions {
            timeout,
            on_failure,
            ..
        } = options;
        let watch = Watch::start(
            mpi.process,
            directory,
            &listener,
            &token,
            start,
            timeout,
            on_failure,
        )?;
        mpi.heed(&watch);
        Ok(Self {
            watch,
            rounds: 0,
            engine: Engine::Mpi(mpi),
        })
    }

    #[cfg(not(feature = "mpi"))]
    fn join_mpi(environment: &Environment, _: JoinOptions) -> Result<Self, RankError> {
        Err(RankError::Unavailable {
            reason: format!(
                "{} started {} processes, but this build has no MPI; install an MPI (Debian: \
                 libopenmpi-dev openmpi-bin libclang-dev) and build with `cargo install --path . \
                 --features mpi`",
                environment.launcher.name(),
                environment.processes
            ),
        })
    }

    /// Which process this is, counted from 0.
    pub fn process(&self) -> usize {
        self.watch.process()
    }

    /// How many there are.
    pub fn processes(&self) -> usize {
        self.watch.processes()
    }

    /// This process as messages name it.
    pub fn me(&self) -> Peer {
        self.watch.peer(self.process())
    }

    /// A process as messages name it.
    pub fn peer(&self, process: usize) -> Peer {
        self.watch.peer(process)
    }

    /// `ranks` ranks shared out over the processes. Of several groups one is used at a time.
    ///
    /// # Errors
    ///
    /// [`RankError::Uneven`] unless the processes divide the ranks; [`RankError::Unavailable`] when the
    /// process's GPU gives no memory.
    pub fn group(&self, ranks: usize) -> Result<RankGroup, RankError> {
        RankGroup::new(ranks, self.engine.transport(&self.watch)?)
    }

    /// Says something and hears what every process says, in their order. Values are small: a
    /// fingerprint, a count. Every process talks as often as every other.
    ///
    /// # Errors
    ///
    /// [`RankError`] when a process is lost or late.
    pub fn talk(&mut self, value: Value) -> Result<Vec<Value>, RankError> {
        self.rounds += 1;
        self.watch
            .talk(self.rounds, value, Some(self.watch.timeout()))
    }

    /// The same, but a process may take as long as it lives: for what takes one of them long.
    ///
    /// # Errors
    ///
    /// [`RankError`] when a process is lost.
    pub fn talk_patiently(&mut self, value: Value) -> Result<Vec<Value>, RankError> {
        self.rounds += 1;
        self.watch.talk(self.rounds, value, None)
    }

    /// Compares what the processes were started with: names and values. What a process cannot know is
    /// not compared.
    ///
    /// # Errors
    ///
    /// [`RankError::Differs`] with the first process that differs from the majority, and in what;
    /// any other when a process is lost or late.
    pub fn compare(&mut self, fingerprint: &[(&str, Option<String>)]) -> Result<(), RankError> {
        let mine: serde_json::Map<String, Value> = (fingerprint.iter())
            .map(|(name, value)| ((*name).into(), json!(value)))
            .collect();
        let all = self.talk(mine.into())?;
        match first_difference(&all) {
            None => Ok(()),
            Some((process, other, what)) => {
                // All find the same. None ends before all have, or it would be taken for lost.
                let _ = self.talk(Value::Null);
                let text =
                    |process: usize| all[process][&what].as_str().unwrap_or("nothing").to_owned();
                Err(RankError::Differs {
                    peer: Box::new(self.peer(process)),
                    other: Box::new(self.peer(other)),
                    expected: text(other),
                    found: text(process),
                    what,
                })
            }
        }
    }

    /// Tells the others that this process cannot go on.
    pub fn fail(&self, reason: &str) {
        self.watch.fail(reason);
    }

    /// A way to [`fail`](Self::fail) from elsewhere: a panic hook.
    pub fn voice(&self) -> Voice {
        Voice(self.watch.clone())
    }

    /// Whether a failure has not been told to the user yet; asked by whoever tells it. Where it has, the
    /// process is about to end.
    pub fn take_telling(&self) -> bool {
        self.watch.take_telling()
    }

    /// Ends this process with [`RANK_FAILED`](super::RANK_FAILED) once the others know of its failure.
    pub fn give_up(&self) -> ! {
        self.watch.give_up()
    }

    /// Leaves once every process is ready to, however long that takes, and ends what moved tensors.
    ///
    /// # Errors
    ///
    /// [`RankError`] when a process is lost before.
    pub fn leave(&self) -> Result<(), RankError> {
        self.watch.leave()?;
        self.engine.finish(&self.watch)
    }

    /// Waits until every process has heard what they all end for, and leaves what moves tensors as it is: a launcher ends
    /// the others as soon as one has ended with an error, wherever they are.
    pub fn disband(&self) {
        // Who is lost now is no longer of interest.
        let _ = self.watch.leave();
    }
}

/// Tells the other processes that this one cannot go on.
#[derive(Debug, Clone)]
pub struct Voice(Watch);

impl Voice {
    /// Tells them.
    pub fn fail(&self, reason: &str) {
        self.0.fail(reason);
    }

    /// Ends this process once they know.
    pub fn give_up(&self) -> ! {
        self.0.give_up()
    }
}

/// The first process, value by value, that is not of the majority; one of the majority; and the value.
fn first_difference(all: &[Value]) -> Option<(usize, usize, String)> {
    let fields = all.iter().filter_map(Value::as_object);
    for name in fields.flat_map(|fields| fields.keys()) {
        let votes = |value: &Value| all.iter().filter(|other| other[name] == *value).count();
        let known = || (0..all.len()).filter(|process| !all[*process][name].is_null());
        // Of two values held equally often the one of the lower process counts.
        let Some(usual) = known()
            .rev()
            .max_by_key(|process| votes(&all[*process][name]))
        else {
            continue;
        };
        if let Some(process) = known().find(|process| all[*process][name] != all[usual][name]) {
            return Some((process, usual, name.clone()));
        }
    }
    None
}

/// This machine's name.
#[cfg(any(feature = "mpi", feature = "nccl"))]
fn host() -> String {
    /// Longest name there can be (`HOST_NAME_MAX` and its end).
    const ROOM: usize = 65;
    #[cfg(unix)]
    {
        let mut name = [0u8; ROOM];
        // SAFETY: the system writes at most as many bytes as it is told there are.
        let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), ROOM) };
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(ROOM);
        if failed == 0 && end > 0 {
            return String::from_utf8_lossy(&name[..end]).into_owned();
        }
    }
    "this machine".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_differs_from_the_majority_is_named() {
        let of = |n: i32, model: &str| json!({ "tokens": n.to_string(), "model": model });
        assert_eq!(first_difference(&[of(1, "a"), of(1, "a")]), None);
        let found = first_difference(&[of(2, "a"), of(1, "a"), of(1, "b")]);
        assert_eq!(found, Some((0, 1, "tokens".into())));
        let found = first_difference(&[of(1, "a"), of(1, "a"), of(1, "b")]);
        assert_eq!(found, Some((2, 0, "model".into())));
        let two = first_difference(&[of(1, "a"), of(2, "a")]);
        assert_eq!(
            two,
            Some((1, 0, "tokens".into())),
            "a tie goes to the first"
        );
        let unknown = first_difference(&[json!({ "x": null }), json!({ "x": "1" }), json!({})]);
        assert_eq!(unknown, None);
    }
}
