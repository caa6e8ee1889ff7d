//! To whom something belongs: an application in one of its three environments.

use crate::{error::Problem, ids::AppId};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One of the three environments of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Where things are tried.
    Development,
    /// Where they are rehearsed.
    Staging,
    /// Where they count.
    Production,
}

impl Environment {
    /// All three, in the order of promotion.
    pub const ALL: [Self; 3] = [Self::Development, Self::Staging, Self::Production];

    /// Its documented name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Environment {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        Self::ALL
            .into_iter()
            .find(|e| e.as_str() == text)
            .ok_or_else(|| Problem::field("environment", "must be development, staging or production"))
    }
}

/// To whom a row, a key, a channel or an event belongs. Every store and broker call demands one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    application: AppId,
    environment: Environment,
}

impl Scope {
    /// The scope of an application's environment.
    pub fn new(application: AppId, environment: Environment) -> Self {
        Self { application, environment }
    }

    /// The application.
    pub fn application(&self) -> &AppId {
        &self.application
    }

    /// The environment.
    pub fn environment(&self) -> Environment {
        self.environment
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.application, self.environment)
    }
}
