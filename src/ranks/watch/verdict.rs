//! Which error the state of the other processes amounts to.

use std::time::{Duration, Instant};

use super::{Member, QUIET, State};
use crate::ranks::{Operation, RankError, Step};

/// A process that is in another collective at the same index.
pub(super) fn mismatch(state: &State, me: usize, step: Step) -> Option<RankError> {
    let other = state.members.iter().find(|member| {
        member.peer.process != me
            && member.step.is_some_and(|at| !at.agrees_with(&step))
            && step.operation != Operation::GatherValues
    })?;
    Some(RankError::Mismatch {
        peer: Box::new(other.peer.clone()),
        at: Some(step),
        expected: step.to_string(),
        found: other.step.map_or_else(String::new, |at| at.to_string()),
    })
}

/// Processes without a message for longer than the timeout, together with those past half of it: one
/// failure usually stops several.
pub(super) fn unresponsive(
    state: &State,
    me: usize,
    now: Instant,
    timeout: Duration,
) -> Option<RankError> {
    let quiet_for = |member: &Member| now.saturating_duration_since(member.last_seen);
    let others = || {
        state
            .members
            .iter()
            .filter(|m| m.peer.process != me && !m.left)
    };
    let silence = others().map(quiet_for).max()?;
    (silence >= timeout).then(|| RankError::Unresponsive {
        peers: others()
            .filter(|member| quiet_for(member) >= timeout / 2)
            .map(|member| member.peer.clone())
            .collect(),
        at: state.step,
        silence,
    })
}

/// Why a collective was not finished in time, where the processes `missing` have not entered it.
pub(super) fn late(
    state: &State,
    me: usize,
    step: Step,
    waited: Duration,
    missing: &[usize],
) -> RankError {
    let others = || {
        state
            .members
            .iter()
            .filter(|member| member.peer.process != me)
    };
    let quiet = |member: &&Member| member.last_seen.elapsed() >= QUIET.min(waited / 2);
    let names = |members: Vec<&Member>| members.iter().map(|m| m.peer.clone()).collect();
    let silent: Vec<&Member> = others().filter(quiet).collect();
    if let Some(silence) = silent.iter().map(|member| member.last_seen.elapsed()).max() {
        return RankError::Unresponsive {
            peers: names(silent),
            at: Some(step),
            silence,
        };
    }
    let mut behind: Vec<&Member> = others()
        .filter(|member| missing.contains(&member.peer.process))
        .collect();
    if behind.is_empty() {
        // All have entered it, and yet it does not end.
        behind = others().collect();
    }
    let doing: Vec<String> = (behind.iter())
        .map(|member| match member.step {
            Some(at) => format!("last at the {at}"),
            None => "not yet at its first step".into(),
        })
        .collect();
    RankError::Timeout {
        doing: doing.join(" and "),
        peers: names(behind),
        at: step,
        waited,
    }
}
