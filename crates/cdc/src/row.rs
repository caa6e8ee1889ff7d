//! A row change as it stands in the replication stream: borrowed text, and what is not there.

use crate::values::Kind;
use shared_types::{Operation, mapping::TableName};

/// One column of a table at the time of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// How its text becomes JSON.
    pub kind: Kind,
    /// Whether the replica identity is a key that holds it.
    pub key: bool,
}

/// A table as the stream last described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its object id.
    pub oid: u32,
    /// Its name.
    pub table: TableName,
    /// Its columns, in the order in which rows hold them.
    pub columns: Vec<Column>,
}

impl Relation {
    /// The place of the column `name`.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

/// A value as the stream holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL null.
    Null,
    /// Not in the stream, because the update did not touch it and it is stored out of line (TOAST).
    Unchanged,
    /// Its text, UTF-8 unless the database has no encoding.
    Text(&'a [u8]),
}

/// What the stream says of the row before a change.
#[derive(Clone, Copy, Debug)]
pub enum OldRow<'a> {
    /// Nothing: an insert, or an update that left the replica identity as it was.
    None,
    /// The replica identity's columns; the others hold [`Cell::Null`] that means nothing.
    Key(&'a [Cell<'a>]),
    /// All of it (`REPLICA IDENTITY FULL`).
    Full(&'a [Cell<'a>]),
}

/// One changed row.
#[derive(Clone, Copy, Debug)]
pub struct RowChange<'a> {
    /// Its table.
    pub relation: &'a Relation,
    /// What happened.
    pub operation: Operation,
    /// The row afterwards; empty on a delete.
    pub new: &'a [Cell<'a>],
    /// The row before.
    pub old: OldRow<'a>,
}

/// A value of a change as a mapping sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<'a> {
    /// SQL null, or the old value of an insert.
    Null,
    /// The stream does not hold it; whether it is null is not known either, unless it is `stored`.
    Unavailable {
        /// It is a value that was stored out of line, so that it is not null.
        stored: bool,
    },
    /// Its text.
    Text(&'a [u8]),
}

/// Whether a column changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It did; on insert and delete every column did.
    Changed,
    /// It did not.
    Same,
    /// The stream does not hold its old value.
    Unknown,
}

impl<'a> RowChange<'a> {
    /// `$row`: the value after the change; on a delete, the value that was.
    pub fn row(&self, column: usize) -> Known<'a> {
        if self.operation == Operation::Delete {
            return self.old(column);
        }
        match self.new.get(column) {
            Some(Cell::Null) => Known::Null,
            Some(Cell::Text(text)) => Known::Text(text),
            // What the update left alone is what it was, where that is known.
            Some(Cell::Unchanged) => match self.old {
                OldRow::Full(old) => known(old.get(column)),
                OldRow::None | OldRow::Key(_) => Known::Unavailable { stored: true },
            },
            None => Known::Unavailable { stored: false },
        }
    }

    /// `$old`: the value before the change; null on an insert, where there was no row.
    pub fn old(&self, column: usize) -> Known<'a> {
        let key = self.relation.columns.get(column).is_some_and(|c| c.key);
        match (self.operation, self.old) {
            (Operation::Insert, _) => Known::Null,
            (_, OldRow::Full(old)) => known(old.get(column)),
            (_, OldRow::Key(old)) if key => known(old.get(column)),
            // Without an old row in the stream the update left the identity's columns as they were.
            (Operation::Update, OldRow::None) if key => known(self.new.get(column)),
            (Operation::Update, _) if matches!(self.new.get(column), Some(Cell::Unchanged)) => {
                Known::Unavailable { stored: true }
            }
            _ => Known::Unavailable { stored: false },
        }
    }

    /// Whether the value of `column` changed. A value that is not in the stream is never called changed.
    pub fn changed(&self, column: usize) -> Change {
        if self.operation != Operation::Update {
            return Change::Changed;
        }
        if matches!(self.new.get(column), Some(Cell::Unchanged)) {
            return Change::Same;
        }
        match (self.old(column), self.row(column)) {
            (Known::Unavailable { .. }, _) | (_, Known::Unavailable { .. }) => Change::Unknown,
            (old, new) if old == new => Change::Same,
            _ => Change::Changed,
        }
    }
}

fn known<'a>(cell: Option<&Cell<'a>>) -> Known<'a> {
    match cell {
        Some(Cell::Null) => Known::Null,
        Some(Cell::Text(text)) => Known::Text(text),
        Some(Cell::Unchanged) => Known::Unavailable { stored: true },
        None => Known::Unavailable { stored: false },
    }
}
