//! What to make of another process's silence or words.

use std::time::{Duration, Instant};

use super::{Member, QUIET, State};
use crate::ranks::{Operation, Place, RankError};

/// A process that speaks of the same exchange and means another.
pub(super) fn elsewhere(state: &State, me: usize, place: Place) -> Option<RankError> {
    let other = state.members.iter().find(|member| {
        member.peer.process != me
            && member.place.is_some_and(|at| !at.agrees_with(&place))
            && place.operation != Operation::Agree
    })?;
    Some(RankError::Mismatch {
        peer: Box::new(other.peer.clone()),
        at: Some(place),
        expected: place.to_string(),
        found: other.place.map_or_else(String::new, |at| at.to_string()),
    })
}

/// Everybody that has been silent too long, together with those about to be.
pub(super) fn silent(
    state: &State,
    me: usize,
    now: Instant,
    timeout: Duration,
) -> Option<RankError> {
    let quiet_for = |member: &Member| now.saturating_duration_since(member.heard);
    let others = || {
        state
            .members
            .iter()
            .filter(|m| m.peer.process != me && !m.left)
    };
    let silence = others().map(quiet_for).max()?;
    (silence >= timeout).then(|| RankError::Silent {
        peers: others()
            .filter(|member| quiet_for(member) >= timeout / 2)
            .map(|member| member.peer.clone())
            .collect(),
        at: state.place,
        silence,
    })
}

/// Why an exchange was not finished in time, among the processes that are `missing` from it.
pub(super) fn late(
    state: &State,
    me: usize,
    place: Place,
    waited: Duration,
    missing: &[usize],
) -> RankError {
    let others = || {
        state
            .members
            .iter()
            .filter(|member| member.peer.process != me)
    };
    let quiet = |member: &&Member| member.heard.elapsed() >= QUIET.min(waited / 2);
    let names = |members: Vec<&Member>| members.iter().map(|m| m.peer.clone()).collect();
    let silent: Vec<&Member> = others().filter(quiet).collect();
    if let Some(silence) = silent.iter().map(|member| member.heard.elapsed()).max() {
        return RankError::Silent {
            peers: names(silent),
            at: Some(place),
            silence,
        };
    }
    let mut behind: Vec<&Member> = others()
        .filter(|member| missing.contains(&member.peer.process))
        .collect();
    if behind.is_empty() {
        // All say that they are here, and yet it does not end.
        behind = others().collect();
    }
    let doing: Vec<String> = (behind.iter())
        .map(|member| match member.place {
            Some(at) => format!("last at the {at}"),
            None => "not yet at its first exchange".into(),
        })
        .collect();
    RankError::Timeout {
        doing: doing.join(" and "),
        peers: names(behind),
        at: place,
        waited,
    }
}
