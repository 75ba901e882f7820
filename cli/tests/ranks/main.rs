//! Ranks of one process, of several threads and of several processes, under the same tests.

#[cfg(feature = "mpi")]
mod commands;
#[cfg(feature = "mpi")]
#[path = "../../../tests/common/data.rs"]
mod data;
#[cfg(feature = "mpi")]
mod faults;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "mpi")]
mod starts;
mod suite;

use std::time::Duration;

use burn::tensor::Device;
use burn_apb::ranks::{RankGroup, RankOrder, threads};
#[cfg(feature = "mpi")]
use mpi as launcher;

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn local() {
    for ranks in [1, 2, 3, 4] {
        suite::run(&Device::flex(), |_| RankGroup::local(ranks), 1, &[1, 2]);
    }
}

#[test]
fn over_threads() {
    for processes in [2, 3, 4] {
        for (order, each) in [
            (RankOrder::InOrder, 1),
            (RankOrder::InOrder, 2),
            (RankOrder::Folded, 2),
            (RankOrder::Folded, 3),
        ] {
            std::thread::scope(|scope| {
                for transport in threads(processes, DEADLINE) {
                    scope.spawn(move || {
                        let mut transport = Some(transport);
                        let group = |_| {
                            let transport = transport.take().expect("one group");
                            let group = RankGroup::new(processes * each, Box::new(transport));
                            group.expect("even").with_order(order)
                        };
                        suite::run(&Device::flex(), group, processes, &[each]);
                    });
                }
            });
        }
    }
}
