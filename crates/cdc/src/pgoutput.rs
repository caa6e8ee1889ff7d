//! The messages of the output plugin `pgoutput`, protocol version 1.
//!
//! Owns the wire format alone: bytes enter by [`Message::parse`], borrowed rows leave. The layout is that of the
//! PostgreSQL manual, "Logical Replication Message Formats".

use crate::row::{Cell, Column, OldRow, Relation};
use crate::values::{Kind, OwnTypes};
use shared_types::mapping::TableName;
use thiserror::Error;

/// A message that does not have the documented form.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the replication stream holds a malformed {0} message")]
pub struct Malformed(&'static str);

/// Microseconds between 1970 and 2000, from which Postgres counts.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// One message.
#[derive(Debug)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin {
        /// Where its commit stands in the log.
        commit_lsn: u64,
        /// When it was committed, Unix milliseconds.
        commit_ms: i64,
        /// Its id.
        xid: u32,
    },
    /// It ends.
    Commit {
        /// Behind its commit in the log.
        end_lsn: u64,
    },
    /// The shape of a table from here on.
    Relation(RelationMessage<'a>),
    /// A new row.
    Insert {
        /// Its table.
        relation: u32,
        /// The row.
        new: Vec<Cell<'a>>,
    },
    /// A changed row.
    Update {
        /// Its table.
        relation: u32,
        /// What is known of the row before.
        old: OldTuple<'a>,
        /// The row.
        new: Vec<Cell<'a>>,
    },
    /// A removed row.
    Delete {
        /// Its table.
        relation: u32,
        /// What is known of it.
        old: OldTuple<'a>,
    },
    /// A message that a transaction wrote into the log.
    Logical {
        /// What tells its kind.
        prefix: &'a str,
        /// What it says.
        content: &'a [u8],
    },
    /// Something that nobody looks at: types, origins, truncations.
    Other,
}

/// What an update or delete says of the row before.
#[derive(Debug)]
pub enum OldTuple<'a> {
    /// Nothing.
    None,
    /// Its replica identity.
    Key(Vec<Cell<'a>>),
    /// All of it.
    Full(Vec<Cell<'a>>),
}

impl OldTuple<'_> {
    /// The same, borrowed.
    pub fn as_row(&self) -> OldRow<'_> {
        match self {
            Self::None => OldRow::None,
            Self::Key(cells) => OldRow::Key(cells),
            Self::Full(cells) => OldRow::Full(cells),
        }
    }
}

/// The shape of a table.
#[derive(Debug)]
pub struct RelationMessage<'a> {
    /// Its object id.
    pub oid: u32,
    schema: &'a str,
    name: &'a str,
    columns: Vec<(bool, &'a str, u32)>,
}

impl RelationMessage<'_> {
    /// The types of its columns.
    pub fn types(&self) -> impl Iterator<Item = u32> {
        self.columns.iter().map(|(_, _, oid)| *oid)
    }

    /// The relation, with `own` telling what the database's own types stand for.
    pub fn to_relation(&self, own: &OwnTypes) -> Relation {
        let column = |&(key, name, oid): &(bool, &str, u32)| Column {
            name: name.to_owned(),
            kind: Kind::of(oid, own),
            key,
        };
        Relation {
            oid: self.oid,
            table: TableName::new(self.schema, self.name),
            columns: self.columns.iter().map(column).collect(),
        }
    }
}

impl<'a> Message<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// [`Malformed`] where it ends early or holds what should not be there.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (&tag, rest) = bytes.split_first().ok_or(Malformed("empty"))?;
        let mut rest = Reader(rest);
        match tag {
            b'I' => rest.insert().ok_or(Malformed("insert")),
            b'U' => rest.update().ok_or(Malformed("update")),
            b'D' => rest.delete().ok_or(Malformed("delete")),
            b'B' => rest.begin().ok_or(Malformed("begin")),
            b'C' => rest.commit().ok_or(Malformed("commit")),
            b'R' => rest.relation().ok_or(Malformed("relation")),
            b'M' => rest.logical().ok_or(Malformed("logical")),
            _ => Ok(Self::Other),
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2).and_then(|b| b.try_into().ok()).map(|b| usize::from(u16::from_be_bytes(b)))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|b| *b == 0)?;
        let text = std::str::from_utf8(self.take(end)?).ok()?;
        self.take(1)?;
        Some(text)
    }

    fn tuple(&mut self) -> Option<Vec<Cell<'a>>> {
        let count = self.u16()?;
        let mut cells = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            cells.push(match self.u8()? {
                b'n' => Cell::Null,
                b'u' => Cell::Unchanged,
                b't' => {
                    let length = self.u32()? as usize;
                    Cell::Text(self.take(length)?)
                }
                _ => return None,
            });
        }
        Some(cells)
    }

    fn begin(&mut self) -> Option<Message<'a>> {
        let commit_lsn = self.u64()?;
        let micros = self.u64()?.cast_signed();
        Some(Message::Begin {
            commit_lsn,
            commit_ms: micros.saturating_add(POSTGRES_EPOCH_US).div_euclid(1000),
            xid: self.u32()?,
        })
    }

    fn commit(&mut self) -> Option<Message<'a>> {
        self.take(1 + 8)?;
        Some(Message::Commit { end_lsn: self.u64()? })
    }

    fn relation(&mut self) -> Option<Message<'a>> {
        let oid = self.u32()?;
        // An empty schema stands for pg_catalog.
        let schema = self.text()?;
        let name = self.text()?;
        // Where it is the whole row every column is called part of the key.
        let is_whole = self.u8()? == b'f';
        let count = self.u16()?;
        let mut columns = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            let key = self.u8()? & 1 == 1 && !is_whole;
            columns.push((key, self.text()?, self.u32()?));
            self.u32()?;
        }
        Some(Message::Relation(RelationMessage { oid, schema, name, columns }))
    }

    fn logical(&mut self) -> Option<Message<'a>> {
        self.take(1 + 8)?;
        let prefix = self.text()?;
        let length = self.u32()? as usize;
        Some(Message::Logical { prefix, content: self.take(length)? })
    }

    fn insert(&mut self) -> Option<Message<'a>> {
        let relation = self.u32()?;
        (self.u8()? == b'N').then_some(())?;
        Some(Message::Insert { relation, new: self.tuple()? })
    }

    fn update(&mut self) -> Option<Message<'a>> {
        let relation = self.u32()?;
        let (old, tag) = match self.u8()? {
            b'K' => (OldTuple::Key(self.tuple()?), self.u8()?),
            b'O' => (OldTuple::Full(self.tuple()?), self.u8()?),
            tag => (OldTuple::None, tag),
        };
        (tag == b'N').then_some(())?;
        Some(Message::Update { relation, old, new: self.tuple()? })
    }

    fn delete(&mut self) -> Option<Message<'a>> {
        let relation = self.u32()?;
        let old = match self.u8()? {
            b'K' => OldTuple::Key(self.tuple()?),
            b'O' => OldTuple::Full(self.tuple()?),
            _ => return None,
        };
        Some(Message::Delete { relation, old })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tuple(cells: &[Cell<'_>]) -> Vec<u8> {
        let mut bytes = (cells.len() as u16).to_be_bytes().to_vec();
        for cell in cells {
            match cell {
                Cell::Null => bytes.push(b'n'),
                Cell::Unchanged => bytes.push(b'u'),
                Cell::Text(text) => {
                    bytes.push(b't');
                    bytes.extend((text.len() as u32).to_be_bytes());
                    bytes.extend(*text);
                }
            }
        }
        bytes
    }

    fn update(old: Option<(u8, &[Cell<'_>])>, new: &[Cell<'_>]) -> Vec<u8> {
        let mut bytes = vec![b'U', 0, 0, 0, 9];
        if let Some((tag, cells)) = old {
            bytes.push(tag);
            bytes.extend(tuple(cells));
        }
        bytes.push(b'N');
        bytes.extend(tuple(new));
        bytes
    }

    #[test]
    fn reads_begin_and_commit() {
        let mut bytes = vec![b'B'];
        bytes.extend(77u64.to_be_bytes());
        bytes.extend(1_500_000i64.to_be_bytes());
        bytes.extend(5u32.to_be_bytes());
        let Ok(Message::Begin { commit_lsn, commit_ms, xid }) = Message::parse(&bytes) else {
            panic!("no begin")
        };
        assert_eq!((commit_lsn, commit_ms, xid), (77, 946_684_801_500, 5));
        let mut bytes = vec![b'C', 0];
        bytes.extend([1u64, 88, 3].iter().flat_map(|n| n.to_be_bytes()));
        assert!(matches!(Message::parse(&bytes), Ok(Message::Commit { end_lsn: 88 })));
    }

    #[test]
    fn reads_a_message() {
        let mut bytes = vec![b'M', 1];
        bytes.extend(9u64.to_be_bytes());
        bytes.extend(b"ours\0\0\0\0\x02hi");
        assert!(matches!(Message::parse(&bytes), Ok(Message::Logical { prefix: "ours", content: b"hi" })));
        assert!(Message::parse(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn reads_a_relation() {
        let mut bytes = vec![b'R', 0, 0, 0, 9];
        bytes.extend(b"sales\0orders\0d");
        bytes.extend([0, 2]);
        bytes.extend(b"\x01id\0");
        bytes.extend([0, 0, 0, 23, 255, 255, 255, 255]);
        bytes.extend(b"\0note\0");
        bytes.extend([0, 0, 0, 25, 255, 255, 255, 255]);
        let Ok(Message::Relation(message)) = Message::parse(&bytes) else { panic!("no relation") };
        let relation = message.to_relation(&OwnTypes::default());
        assert_eq!(relation.table.to_string(), "sales.orders");
        assert_eq!((relation.columns[0].key, relation.columns[1].key), (true, false));
        assert_eq!((&relation.columns[0].kind, relation.column("note")), (&Kind::Integer, Some(1)));
    }

    proptest! {
        #[test]
        fn rows_come_back_as_they_were_sent(texts in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..40)), 0..20), full: bool) {
            let cells: Vec<Cell<'_>> = texts.iter().map(|t| t.as_ref().map_or(Cell::Null, |t| Cell::Text(t))).collect();
            let bytes = update(Some((if full { b'O' } else { b'K' }, &cells)), &cells);
            let Ok(Message::Update { relation: 9, old, new }) = Message::parse(&bytes) else { panic!("no update") };
            prop_assert_eq!(&new, &cells);
            prop_assert!(matches!((old, full), (OldTuple::Full(old), true) | (OldTuple::Key(old), false) if old == cells));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in prop::sample::select(b"IUDBCRMX".to_vec())) {
            let mut message = vec![tag];
            message.extend(bytes);
            let _ = Message::parse(&message);
        }

        #[test]
        fn a_message_cut_short_is_malformed(cut in 1usize..20) {
            let bytes = update(None, &[Cell::Text(b"hello"), Cell::Null, Cell::Unchanged]);
            let end = bytes.len() - cut.min(bytes.len() - 1);
            prop_assert!(Message::parse(&bytes[..end]).is_err());
        }
    }
}
