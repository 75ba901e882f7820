//! Numbers of ranks and tensors that no collective can move.

use std::time::Duration;

use burn::tensor::Tensor;
use burn_apb::ranks::{
    JoinOptions, Local, Operation, RankGroup, RankOrder, Step, Ticket, World, threads,
};

use super::{Calls, zeros};

/// Two threads of one group; the second ends before the first collective.
fn abandoned() -> RankGroup {
    let mut pair = threads(2, Duration::from_millis(50));
    drop(pair.pop());
    RankGroup::new(4, Box::new(pair.remove(0))).expect("even")
}

#[test]
fn ranks() {
    let mut calls = Calls::default();
    let block = || -> Tensor<4> { zeros([2, 2, 3, 8]) };
    let name = "ranks::RankGroup::new";
    calls.refused(name, || RankGroup::new(0, Box::new(Local)));
    calls.refused(name, || {
        let transport = threads(2, Duration::ZERO).remove(0);
        RankGroup::new(3, Box::new(transport))
    });
    for ranks in [0, usize::MAX] {
        calls.call("ranks::RankGroup::local", || RankGroup::local(ranks));
    }
    for (rank, ranks) in [(0, 0), (2, 2), (usize::MAX, usize::MAX)] {
        calls.refused("ranks::RankGroup::alone", || RankGroup::alone(rank, ranks));
    }
    calls.call("ranks::threads", || threads(0, Duration::MAX).len());
    let mut group = RankGroup::local(2);
    for process in [0, 1, usize::MAX] {
        calls.call("ranks::RankGroup::ranks_of", || group.ranks_of(process));
    }
    for order in [RankOrder::InOrder, RankOrder::Folded] {
        let name = "ranks::RankGroup::with_order";
        let all = calls.call(name, || RankGroup::local(usize::MAX).with_order(order));
        let ranks = all.expect("a group").ranks();
        for rank in [0, usize::MAX] {
            calls.call("ranks::Ranks::contains", || ranks.contains(rank));
        }
    }
    calls.call("ranks::RankGroup::at_layer", || {
        group.at_layer(Some(usize::MAX))
    });
    calls.call("ranks::RankGroup::broadcast", || {
        group.broadcast(Vec::new())
    });
    calls.call("ranks::RankGroup::broadcast", || {
        abandoned().broadcast(vec![1])
    });

    let name = "ranks::RankGroup::start_all_gather";
    let finish = "ranks::RankGroup::finish_all_gather";
    for tensors in [vec![], vec![block()], vec![block(), zeros([2, 2, 4, 8])]] {
        calls.refused(name, || group.start_all_gather(tensors));
    }
    calls.refused(finish, || {
        let mut lost = abandoned();
        let pending = lost.start_all_gather(vec![block(), block()])?;
        lost.finish_all_gather(pending)
    });
    let mut other = RankGroup::local(2);
    let pending = group.start_all_gather(vec![block(), block()]).unwrap();
    calls.call(finish, || other.finish_all_gather(pending));

    let name = "ranks::RankGroup::start_shift";
    for tensors in [vec![], vec![block()]] {
        calls.refused(name, || group.start_shift(tensors, |_| [2, 2, 3, 8]));
    }
    calls.call(name, || {
        group.start_shift(vec![block(), block()], |_| [usize::MAX; 4])
    });
    calls.refused("ranks::RankGroup::finish_shift", || {
        let mut lost = abandoned();
        let pending = lost.start_shift(vec![block(), block()], |_| [2, 2, 3, 8])?;
        lost.finish_shift(pending)
    });

    let name = "ranks::RankGroup::all_to_all";
    let shape = |_: usize, _: usize| [2, 2, 3, 8];
    for outgoing in [
        vec![],
        vec![vec![]],
        vec![vec![block()], vec![block()]],
        vec![vec![block(), block(), block()], vec![block(), block()]],
    ] {
        calls.refused(name, || group.all_to_all(outgoing, shape));
    }
    calls.refused("ranks::RankGroup::gather_processes", || {
        abandoned().gather_processes(block())
    });

    let step = Step {
        index: 0,
        operation: Operation::AllGather,
        layer: None,
        bytes: u64::MAX,
    };
    calls.call("ranks::Ticket::new", || {
        Ticket::new(step, 7, &mut [None], vec![None])
    });

    let mut world = World::single();
    for ranks in [0, usize::MAX] {
        calls.call("ranks::World::group", || world.group(ranks));
    }
    calls.call("ranks::World::fail", || world.fail(""));
    calls.call("ranks::FailureReporter::fail", || {
        world.failure_reporter().fail("")
    });
    calls.call("ranks::World::compare", || world.compare(&[("", None)]));
    calls.call("ranks::World::all_gather_values", || {
        world.all_gather_values(f64::NAN)
    });
    calls.call("ranks::World::all_gather_values_untimed", || {
        world.all_gather_values_untimed(())
    });
    calls.call("ranks::World::detect", || {
        World::detect(JoinOptions::default())
    });
    // Only a launcher makes an environment to join (`cli/tests/ranks`); the others end the process.
    let left_out = [
        "ranks::World::join",
        "ranks::World::exit",
        "ranks::FailureReporter::exit",
    ];
    calls.finish(&["ranks"], &left_out);
}
