//! Decides whether a server may have lost something that was acknowledged: pure.

use super::look::{Held, Node};

/// What the witness outside of Redis knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witnessed {
    /// The generation.
    pub generation: String,
    /// Identities of the nodes that hold it.
    pub nodes: Vec<String>,
    /// For each partition a sequence that was acknowledged.
    pub sequences: Vec<u64>,
}

/// Why the server gets a new generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nobody has used it before.
    FirstUse,
    /// A partition holds another generation, or none.
    OtherGeneration {
        /// Which partition.
        partition: usize,
    },
    /// A partition ends before what was acknowledged.
    Behind {
        /// Which partition.
        partition: usize,
    },
    /// A node was a replica, and may not have had everything when it became the master.
    Promoted,
    /// A node was started anew under settings that let it lose what it had acknowledged.
    WeaklyPersisted,
}

/// Whether, and why, events that were acknowledged may be missing.
pub fn judge(witnessed: Option<&Witnessed>, nodes: &[Node], held: &[Held]) -> Option<Loss> {
    let Some(witnessed) = witnessed else { return Some(Loss::FirstUse) };
    for (partition, held) in held.iter().enumerate() {
        if held.generation.as_ref() != Some(&witnessed.generation) {
            return Some(Loss::OtherGeneration { partition });
        }
        if witnessed.sequences.get(partition).is_some_and(|&acknowledged| held.sequence < acknowledged) {
            return Some(Loss::Behind { partition });
        }
    }
    nodes.iter().find_map(|node| suspect(witnessed, node))
}

fn suspect(witnessed: &Witnessed, node: &Node) -> Option<Loss> {
    if witnessed.nodes.contains(&node.identity()) {
        return None;
    }
    if node.is_promoted {
        return Some(Loss::Promoted);
    }
    // A master that has had no replica for an hour takes another replication id without anything being lost.
    let is_running_on = witnessed.nodes.iter().any(|known| known.split(':').next() == Some(&node.run_id));
    let is_durable = node.weaknesses.as_ref().is_some_and(Vec::is_empty);
    (!is_running_on && !is_durable).then_some(Loss::WeaklyPersisted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(run_id: &str) -> Node {
        Node {
            run_id: run_id.to_owned(),
            replication_id: "r".to_owned(),
            weaknesses: Some(Vec::new()),
            ..Node::default()
        }
    }

    fn held(sequence: u64) -> Vec<Held> {
        vec![Held { generation: Some("g".to_owned()), sequence }]
    }

    fn witnessed() -> Witnessed {
        Witnessed { generation: "g".to_owned(), nodes: vec!["a:r".to_owned()], sequences: vec![5] }
    }

    fn verdict(node: Node, held: &[Held]) -> Option<Loss> {
        judge(Some(&witnessed()), &[node], held)
    }

    #[test]
    fn a_known_node_with_everything_is_kept() {
        assert_eq!(verdict(node("a"), &held(5)), None);
        assert_eq!(verdict(Node { replication_id: "s".to_owned(), ..node("a") }, &held(6)), None);
        assert_eq!(judge(None, &[node("a")], &held(0)), Some(Loss::FirstUse));
    }

    #[test]
    fn a_node_started_anew_is_kept_where_everything_is_on_disk() {
        assert_eq!(verdict(node("b"), &held(5)), None);
        let weak = Some(vec!["appendfsync is everysec".to_owned()]);
        assert_eq!(verdict(Node { weaknesses: weak, ..node("b") }, &held(5)), Some(Loss::WeaklyPersisted));
        assert_eq!(verdict(Node { weaknesses: None, ..node("b") }, &held(5)), Some(Loss::WeaklyPersisted));
    }

    #[test]
    fn an_older_state_is_noticed() {
        assert_eq!(verdict(node("b"), &held(4)), Some(Loss::Behind { partition: 0 }));
        assert_eq!(verdict(node("a"), &held(4)), Some(Loss::Behind { partition: 0 }));
        let empty = [Held::default()];
        assert_eq!(verdict(node("a"), &empty), Some(Loss::OtherGeneration { partition: 0 }));
    }

    #[test]
    fn a_replica_that_became_the_master_is_noticed() {
        assert_eq!(verdict(Node { is_promoted: true, ..node("b") }, &held(5)), Some(Loss::Promoted));
        let returned = Node { is_promoted: true, replication_id: "s".to_owned(), ..node("a") };
        assert_eq!(verdict(returned, &held(5)), Some(Loss::Promoted));
    }
}
