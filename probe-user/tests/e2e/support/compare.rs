//! What a program says of its contexts, against what the agent says.

use serde_json::{Map, Value};

use super::{agent::Agent, eventually, oracle::Told};

/// What the agent must say of where the values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The context lives and is read from memory.
    Live,
    /// `SSL_CTX_free` has taken it; the last look is exact.
    Freed,
    /// The process is gone; the last look is exact.
    Exited,
}

impl Expect {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Live => ("live", "memory"),
            Self::Freed => ("freed", "final"),
            Self::Exited => ("exited", "final"),
        }
    }
}

/// Compares every value of every context that a program told.
///
/// For contexts that live there is one look: the program is at rest, so it must
/// be right at once. An end is waited for, since the process ends when it ends.
pub(crate) fn assert_equal(agent: &Agent, pid: u32, told: &[Told], expect: Expect) {
    assert!(!told.is_empty(), "the program told of no context");
    let (state, source) = expect.words();
    if expect != Expect::Live {
        eventually(&format!("{} contexts of {pid} are {state}", told.len()), || {
            let contexts = agent.contexts_of(pid);
            told.iter()
                .all(|told| latest(&contexts, told).is_some_and(|c| c["state"] == state))
                .then_some(())
        });
    }
    let snapshot = agent.snapshot();
    let contexts: Vec<Value> = snapshot["contexts"]
        .as_array()
        .expect("an array of contexts")
        .iter()
        .filter(|context| context["pid"] == pid)
        .cloned()
        .collect();
    let mut wrong = Vec::new();
    for told in told {
        match latest(&contexts, told) {
            // A context that nothing was ever done with is not seen, and says 0.
            None if told.is_unused() => {}
            None => wrong.push(format!("{}: {} is not there", told.scenario, told.ctx)),
            Some(seen) => {
                wrong.extend(differences(told, seen));
                if seen["state"] != state || seen["source"] != source {
                    wrong.push(format!(
                        "{}: {} is {}/{}, not {state}/{source}",
                        told.scenario, told.ctx, seen["state"], seen["source"]
                    ));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differences:\n{}\nin {snapshot:#}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The newest context at an address.
fn latest<'c>(contexts: &'c [Value], told: &Told) -> Option<&'c Value> {
    contexts
        .iter()
        .filter(|context| context["ctx"] == told.ctx)
        .max_by_key(|context| context["generation"].as_u64())
}

fn differences(told: &Told, seen: &Value) -> Vec<String> {
    let stats: &Map<String, Value> = seen["stats"].as_object().expect("an object of values");
    assert_eq!(stats.len(), 12, "twelve values: {stats:?}");
    told.stats
        .iter()
        .filter(|(name, value)| stats.get(*name) != Some(value))
        .map(|(name, value)| {
            let (scenario, ctx) = (&told.scenario, &told.ctx);
            format!("{scenario}: {ctx}: {name} is {value}, the agent says {}", stats[name])
        })
        .collect()
}
