//! Where somebody can be.

use shared_types::TopicName;

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A channel's members, who joined it.
    Channel,
    /// Those who say that they are present in a channel.
    Present,
    /// Those who say that they are present at a document.
    Document,
}

impl Kind {
    /// The letter that stands for it in keys and rows.
    pub fn letter(self) -> char {
        match self {
            Self::Channel => 'c',
            Self::Present => 'p',
            Self::Document => 'd',
        }
    }
}

/// A place in a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// What it is.
    pub kind: Kind,
    /// Its name: the channel's, or `{service}/{id}` of a document.
    pub name: String,
}

impl Place {
    /// The members of a channel.
    pub fn channel(name: &TopicName) -> Self {
        Self { kind: Kind::Channel, name: name.to_string() }
    }

    /// Those present in a channel.
    pub fn present(name: &TopicName) -> Self {
        Self { kind: Kind::Present, name: name.to_string() }
    }

    /// Those present at a document.
    pub fn document(service: &str, id: &str) -> Self {
        Self { kind: Kind::Document, name: format!("{service}/{id}") }
    }

    /// A document's service and id.
    pub fn as_document(&self) -> Option<(&str, &str)> {
        (self.kind == Kind::Document).then(|| self.name.split_once('/')).flatten()
    }

    /// As it stands in keys and rows: `c:chat:room1`.
    pub fn text(&self) -> String {
        format!("{}:{}", self.kind.letter(), self.name)
    }

    /// Reads what [`Place::text`] wrote.
    pub fn read(text: &str) -> Option<Self> {
        let (letter, name) = text.split_once(':')?;
        let kinds = [Kind::Channel, Kind::Present, Kind::Document];
        let kind = kinds.into_iter().find(|kind| letter.chars().eq([kind.letter()]))?;
        Some(Self { kind, name: name.to_owned() })
    }
}
