//! How far this process knows each partition to be acknowledged, under one generation: pure.

use crate::keys::{PARTITIONS, Partition};

/// What was acknowledged under one generation. It says nothing of any other: numbers of a lost past, held against the
/// present, would end that too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The generation; empty before the first.
    pub generation: String,
    /// For each partition the highest sequence.
    pub sequences: Vec<u64>,
}

impl Default for Acknowledged {
    fn default() -> Self {
        Self { generation: String::new(), sequences: vec![0; usize::from(PARTITIONS)] }
    }
}

impl Acknowledged {
    /// From now on `generation` holds; what was acknowledged under another is forgotten.
    pub fn begin(&mut self, generation: &str) {
        if self.generation != generation {
            *self = Self { generation: generation.to_owned(), ..Self::default() };
        }
    }

    /// Everything up to `sequence` was acknowledged under `generation`.
    pub fn raise(&mut self, generation: &str, partition: Partition, sequence: u64) {
        if self.generation == generation {
            let known = &mut self.sequences[usize::from(partition.0)];
            *known = sequence.max(*known);
        }
    }

    /// Raises what is `known` of `generation` by what was acknowledged under it here.
    pub fn raise_known(&self, generation: &str, known: &mut [u64]) {
        if self.generation == generation {
            known.iter_mut().zip(&self.sequences).for_each(|(known, ours)| *known = (*known).max(*ours));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_under_another_generation_says_nothing() {
        let (mut acknowledged, mut known) = (Acknowledged::default(), vec![3, 3]);
        acknowledged.raise("a", Partition(0), 9);
        acknowledged.begin("a");
        acknowledged.raise("a", Partition(0), 5);
        acknowledged.raise("a", Partition(0), 4);
        acknowledged.raise("b", Partition(1), 7);
        acknowledged.begin("a");
        acknowledged.raise_known("b", &mut known);
        assert_eq!(known, [3, 3]);
        acknowledged.raise_known("a", &mut known);
        assert_eq!(known, [5, 3]);
        acknowledged.begin("b");
        acknowledged.raise_known("b", &mut known);
        assert_eq!((known, &*acknowledged.generation), (vec![5, 3], "b"));
    }
}
