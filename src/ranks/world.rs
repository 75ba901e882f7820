//! The processes that run a computation together; one alone is a world of one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::transport::Engine;
use super::watch::{Watch, end_process};
use super::{
    Environment, JoinOptions, Local, Peer, RankError, RankGroup, RankOrder, TransportKind, host,
};

/// The processes that were started together, or this process alone.
///
/// It handles no signal and does not end the process, unless [`exit`](Self::exit) is called: when a process is
/// lost, the calls on all others return a [`RankError`] that names it, and nothing more can be computed together.
/// Dropping the world and its groups closes the links; the others take a process that did so before it
/// [left](Self::leave) for lost. A world of one has no links and starts no thread.
#[derive(Debug)]
pub struct World(Kind);

#[derive(Debug)]
enum Kind {
    Single {
        /// Ranks of the last group, for this process's name.
        ranks: AtomicUsize,
    },
    Joined {
        watch: Watch,
        rounds: u64,
        engine: Box<dyn Engine>,
        order: RankOrder,
    },
}

impl World {
    /// This process alone, which drives all ranks.
    pub fn single() -> Self {
        Self(Kind::Single {
            ranks: AtomicUsize::new(1),
        })
    }

    /// All processes of the launcher, or this one alone where it was started without a launcher or as its
    /// only process.
    ///
    /// # Errors
    ///
    /// As [`Environment::detect`] and [`join`](Self::join).
    pub fn detect(options: JoinOptions) -> Result<Self, RankError> {
        match Environment::detect()? {
            Some(environment) if environment.processes > 1 => Self::join(&environment, options),
            _ => Ok(Self::single()),
        }
    }

    /// Connects this process with all others of its launcher.
    ///
    /// # Errors
    ///
    /// [`RankError::Unavailable`] in a build without the transport, on a machine without its library, or
    /// where the launcher starts no MPI; [`RankError::Connect`] when a process does not connect in time;
    /// [`RankError::Differs`], on all, where the options have not the same rank order.
    #[cfg_attr(
        not(any(feature = "mpi", feature = "nccl-engine")),
        allow(
            unreachable_code,
            unused_variables,
            reason = "a build without an engine joins no processes"
        )
    )]
    pub fn join(environment: &Environment, options: JoinOptions) -> Result<Self, RankError> {
        let (order, start) = (options.rank_order, options.start_timeout());
        let (engine, watch): (Box<dyn Engine>, Watch) = match options.transport {
            #[cfg(feature = "mpi")]
            TransportKind::Mpi => super::mpi::join(environment, options)?,
            #[cfg(not(feature = "mpi"))]
            TransportKind::Mpi => {
                return Err(RankError::Unavailable {
                    reason: format!(
                        "{} started {} processes, but this build has no MPI; install an MPI (Debian: \
                         libopenmpi-dev openmpi-bin libclang-dev) and build with `cargo install --path cli \
                         --features mpi`",
                        environment.launcher.name(),
                        environment.processes
                    ),
                });
            }
            #[cfg(feature = "nccl-engine")]
            TransportKind::Nccl { device } => super::nccl::join(environment, options, device)?,
            #[cfg(not(feature = "nccl-engine"))]
            TransportKind::Nccl { .. } => {
                return Err(RankError::Unavailable {
                    reason: "this build has no NCCL; build it with `cargo install --path cli --features nccl`"
                        .into(),
                });
            }
        };
        Self::joined(watch, engine, order, start)
    }

    /// The world of processes that are connected, once their orders are found to be the same; others may connect
    /// within `start`.
    fn joined(
        watch: Watch,
        engine: Box<dyn Engine>,
        order: RankOrder,
        start: Duration,
    ) -> Result<Self, RankError> {
        let mut world = Self(Kind::Joined {
            watch,
            rounds: 0,
            engine,
            order,
        });
        let orders = [("rank order", Some(order.name().into()))];
        let compared = world.compare_within(&orders, Some(start));
        if let Err(error) = compared {
            world.leave_after_error();
            return Err(error);
        }
        Ok(world)
    }

    fn watch(&self) -> Option<&Watch> {
        match &self.0 {
            Kind::Single { .. } => None,
            Kind::Joined { watch, .. } => Some(watch),
        }
    }

    /// Whether this is a world of one, without links to other processes.
    pub fn is_single(&self) -> bool {
        self.watch().is_none()
    }

    /// This process, counted from 0.
    pub fn process(&self) -> usize {
        self.watch().map_or(0, Watch::process)
    }

    /// The number of processes.
    pub fn processes(&self) -> usize {
        self.watch().map_or(1, Watch::processes)
    }

    /// This process as messages name it.
    pub fn me(&self) -> Peer {
        match &self.0 {
            Kind::Joined { watch, .. } => watch.peer(watch.process()),
            Kind::Single { ranks } => Peer {
                ranks: (0..ranks.load(Ordering::Relaxed)).into(),
                ..Peer::here(0, host())
            },
        }
    }

    /// All processes as messages name them, in their order.
    pub fn peers(&self) -> Vec<Peer> {
        match &self.0 {
            Kind::Joined { watch, .. } => (0..watch.processes()).map(|p| watch.peer(p)).collect(),
            Kind::Single { .. } => vec![self.me()],
        }
    }

    /// `ranks` ranks divided evenly over the processes, in the order of [`JoinOptions::rank_order`]. Of several groups
    /// one is used at a time.
    ///
    /// # Errors
    ///
    /// [`RankError::Uneven`] unless the processes divide the ranks; [`RankError::Unavailable`] when no
    /// memory of the process's GPU can be had.
    pub fn group(&self, ranks: usize) -> Result<RankGroup, RankError> {
        match &self.0 {
            Kind::Single { ranks: named } => {
                let group = RankGroup::new(ranks, Box::new(Local))?;
                named.store(ranks, Ordering::Relaxed);
                Ok(group)
            }
            Kind::Joined {
                watch,
                engine,
                order,
                ..
            } => {
                let group = RankGroup::new(ranks, engine.transport(watch)?)?.with_order(*order);
                watch.set_ranks(|process| group.ranks_of(process));
                Ok(group.starting_at(watch.next_step()))
            }
        }
    }

    /// Gathers a small value from every process, in their order: a fingerprint, a count. It travels as JSON. All
    /// processes call it equally often, with values of one type.
    ///
    /// # Errors
    ///
    /// [`RankError`] when a process is lost or late; [`RankError::Mismatch`] when one has a value of another type.
    pub fn all_gather_values<T>(&mut self, value: T) -> Result<Vec<T>, RankError>
    where
        T: Serialize + DeserializeOwned,
    {
        let timeout = self.watch().map(Watch::timeout);
        self.gather(value, timeout)
    }

    /// As [`all_gather_values`](Self::all_gather_values) without a timeout, for values that take a process
    /// long to compute.
    ///
    /// # Errors
    ///
    /// [`RankError`] when a process is lost; [`RankError::Mismatch`] when one has a value of another type.
    pub fn all_gather_values_untimed<T>(&mut self, value: T) -> Result<Vec<T>, RankError>
    where
        T: Serialize + DeserializeOwned,
    {
        self.gather(value, None)
    }

    fn gather<T>(&mut self, value: T, timeout: Option<Duration>) -> Result<Vec<T>, RankError>
    where
        T: Serialize + DeserializeOwned,
    {
        let Kind::Joined { watch, rounds, .. } = &mut self.0 else {
            return Ok(vec![value]);
        };
        *rounds += 1;
        let mismatch = |process: usize, found: String| RankError::Mismatch {
            peer: Box::new(watch.peer(process)),
            at: None,
            expected: format!("a value of type {}", std::any::type_name::<T>()),
            found,
        };
        let mine = serde_json::to_value(value);
        let mine = mine.map_err(|error| mismatch(watch.process(), error.to_string()))?;
        let all = watch.gather_values(*rounds, mine, timeout)?;
        let read = |(process, value): (usize, Value)| {
            T::deserialize(&value).map_err(|_| mismatch(process, value.to_string()))
        };
        all.into_iter().enumerate().map(read).collect()
    }

    /// Compares the settings of the processes, names and values. A value that a process does not have is
    /// not compared.
    ///
    /// # Errors
    ///
    /// [`RankError::Differs`] with the first process that differs from the majority, and the setting;
    /// any other when a process is lost or late.
    pub fn compare(&mut self, fingerprint: &[(&str, Option<String>)]) -> Result<(), RankError> {
        let timeout = self.watch().map(Watch::timeout);
        self.compare_within(fingerprint, timeout)
    }

    fn compare_within(
        &mut self,
        fingerprint: &[(&str, Option<String>)],
        timeout: Option<Duration>,
    ) -> Result<(), RankError> {
        let mine: serde_json::Map<String, Value> = (fingerprint.iter())
            .map(|(name, value)| ((*name).into(), json!(value)))
            .collect();
        let all = self.gather(Value::from(mine), timeout)?;
        let Some((process, other, what)) = first_difference(&all) else {
            return Ok(());
        };
        // All processes find the same. None may end before all have, or it would be reported as lost.
        let _ = self.gather(Value::Null, timeout);
        let peers = self.peers();
        let text = |process: usize| all[process][&what].as_str().unwrap_or("nothing").to_owned();
        Err(RankError::Differs {
            peer: Box::new(peers[process].clone()),
            other: Box::new(peers[other].clone()),
            expected: text(other),
            found: text(process),
            what,
        })
    }

    /// Sends the others the reason why this process cannot go on.
    pub fn fail(&self, reason: &str) {
        self.failure_reporter().fail(reason);
    }

    /// A handle to [`fail`](Self::fail) and [`exit`](Self::exit) from elsewhere, such as a panic hook.
    pub fn failure_reporter(&self) -> FailureReporter {
        FailureReporter(self.watch().map(Watch::unguarded))
    }

    /// Whether the caller is the first to claim a failure, and so the one to report it to the user. If not,
    /// [`JoinOptions::on_failure`] was called with it.
    pub fn claim_failure_report(&self) -> bool {
        self.watch().is_none_or(Watch::claim_report)
    }

    /// Ends this process with an exit code, after a failure once the others have it, and without the exit
    /// handlers of libraries: MPI's would wait for processes that are lost, and a launcher ends the others as soon
    /// as one has ended.
    pub fn exit(&self, code: i32) -> ! {
        self.failure_reporter().exit(code)
    }

    /// Waits until every process leaves, however long that takes, and ends the transport's library.
    ///
    /// # Errors
    ///
    /// [`RankError`] when a process is lost before.
    pub fn leave(&self) -> Result<(), RankError> {
        match &self.0 {
            Kind::Single { .. } => Ok(()),
            Kind::Joined { watch, engine, .. } => {
                watch.leave()?;
                engine.finish(watch)
            }
        }
    }

    /// Waits until every process leaves after an error that all of them have, and does not end the
    /// transport's library: a launcher may end the others before that, as soon as one has failed.
    pub fn leave_after_error(&self) {
        // A process that is lost now changes nothing.
        let _ = self.watch().map(Watch::leave);
    }
}

/// A handle to a [`World`] for code that reports its failures.
#[derive(Debug, Clone)]
pub struct FailureReporter(Option<Watch>);

impl FailureReporter {
    /// As [`World::fail`].
    pub fn fail(&self, reason: &str) {
        if let Some(watch) = &self.0 {
            watch.fail(reason);
        }
    }

    /// As [`World::exit`].
    pub fn exit(&self, code: i32) -> ! {
        match &self.0 {
            Some(watch) => watch.exit(code),
            None => end_process(code),
        }
    }
}

/// The first process whose value differs from the majority's, one of the majority, and the name of the
/// value.
fn first_difference(all: &[Value]) -> Option<(usize, usize, String)> {
    let fields = all.iter().filter_map(Value::as_object);
    for name in fields.flat_map(|fields| fields.keys()) {
        let votes = |value: &Value| all.iter().filter(|other| other[name] == *value).count();
        let known = || (0..all.len()).filter(|process| !all[*process][name].is_null());
        // Of two values that are equally frequent the one of the lower process counts.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::watch::listen;
    use crate::ranks::{Ranks, Transport};

    /// Nothing is exchanged.
    #[derive(Debug)]
    struct Idle;

    impl Engine for Idle {
        fn transport(&self, _: &Watch) -> Result<Box<dyn Transport>, RankError> {
            Ok(Box::new(Local))
        }

        fn finish(&self, _: &Watch) -> Result<(), RankError> {
            Ok(())
        }
    }

    #[test]
    fn processes_with_different_rank_orders_are_refused() {
        let (listeners, directory): (Vec<_>, Vec<_>) =
            (0..2).map(|process| listen(process, None).unwrap()).unzip();
        let join = |process: usize, order: RankOrder| {
            let (listener, options) = (&listeners[process], JoinOptions::default());
            let start = options.start_timeout();
            let watch = Watch::start(process, directory.clone(), listener, "token", options);
            World::joined(watch.unwrap(), Box::new(Idle), order, start)
        };
        let both = |other: RankOrder| {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| join(1, other).map(|world| world.leave()));
                let first = join(0, RankOrder::Folded).map(|world| world.leave());
                [first, other.join().unwrap()]
            })
        };
        assert_eq!(both(RankOrder::Folded), [Ok(Ok(())), Ok(Ok(()))]);
        for refused in both(RankOrder::InOrder) {
            let Err(RankError::Differs {
                peer,
                what,
                expected,
                found,
                ..
            }) = refused
            else {
                panic!("{refused:?}");
            };
            assert_eq!((peer.process, what.as_str()), (1, "rank order"));
            assert_eq!((expected.as_str(), found.as_str()), ("folded", "in-order"));
        }
    }

    #[test]
    fn the_process_that_differs_from_the_majority_is_named() {
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

    #[test]
    fn a_process_alone_is_a_world_of_one() {
        let mut world = World::single();
        assert!(world.is_single());
        assert_eq!((world.process(), world.processes()), (0, 1));
        let group = world.group(4).unwrap();
        let all = Ranks::from(0..4);
        assert_eq!((group.world_size(), group.ranks()), (4, all.clone()));
        assert_eq!(world.me().ranks, all);
        assert_eq!(world.me().pid, std::process::id());
        assert_eq!(
            world.group(0).err(),
            Some(RankError::Uneven {
                ranks: 0,
                processes: 1
            })
        );
        assert_eq!(world.all_gather_values(json!(7)), Ok(vec![json!(7)]));
        assert_eq!(
            world.all_gather_values_untimed(json!(8)),
            Ok(vec![json!(8)])
        );
        assert_eq!(
            world.compare(&[("tokens", Some("1".into())), ("model", None)]),
            Ok(())
        );
        world.fail("nothing else receives this");
        assert!(world.claim_failure_report());
        world.leave_after_error();
        assert_eq!(world.leave(), Ok(()));
    }
}
