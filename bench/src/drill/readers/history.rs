//! Following over REST: the topic's history from its beginning, page after page, as it grows.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Deserialize;
use tokio::time::sleep;

use super::{Shared, note};
use crate::drill::account::Position;
use crate::drill::source::{Event, Source};
use crate::link::Endpoint;
use crate::rows::Rest;

/// How long to wait for more, or until it is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The most events of a page.
const PAGE: usize = 500;

/// A part of a history, and the position of its last event, or of the head.
#[derive(Deserialize)]
struct Page {
    events: Vec<Event>,
    epoch: String,
    offset: u64,
    #[serde(default = "connected")]
    recovered: bool,
}

const fn connected() -> bool {
    true
}

/// Follows until dropped.
pub async fn follow(source: Source, endpoint: Endpoint, account: Shared) {
    loop {
        if let Err(error) = read(source, &endpoint, &account).await {
            account.borrow_mut().trouble(format!("{error:#}"));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Reads what there is behind the account's position.
async fn read(source: Source, endpoint: &Endpoint, account: &Shared) -> Result<()> {
    let rest = Rest::new(endpoint)?;
    let path = format!("/api/topics/{}/history", source.topic());
    let position = account.borrow().position().cloned();
    let mut at = match position {
        Some(position) => position,
        None => {
            let head: Page = serde_json::from_value(rest.get(&format!("{path}?limit=1")).await?)?;
            let beginning = Position { epoch: head.epoch, offset: 0 };
            account.borrow_mut().stands_at(beginning.clone());
            beginning
        }
    };
    loop {
        let since = format!("{}:{}", at.epoch, at.offset);
        let answer = rest.get(&format!("{path}?since={since}&limit={PAGE}")).await?;
        let page: Page = serde_json::from_value(answer)?;
        account.borrow_mut().connected();
        at = take_page(source, page, account)?;
        if account.borrow().position() == Some(&at) && since == format!("{}:{}", at.epoch, at.offset) {
            return Ok(());
        }
    }
}

fn take_page(source: Source, page: Page, account: &Shared) -> Result<Position> {
    if !page.recovered {
        account.borrow_mut().gap();
    }
    let now = Instant::now();
    for event in page.events {
        note(source, account, event, now)?;
    }
    let at = Position { epoch: page.epoch, offset: page.offset };
    account.borrow_mut().stands_at(at.clone());
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_connect_unless_they_say_otherwise() {
        let account = Shared::default();
        let page = |text: &str| serde_json::from_str::<Page>(text).unwrap();
        let first = r#"{"events":[{"id":"evt_1","payload":{"key":1},"metadata":{"epoch":"e","offset":1}}],"epoch":"e","offset":1}"#;
        let at = take_page(Source::Outbox, page(first), &account).unwrap();
        assert_eq!(at, Position { epoch: "e".to_owned(), offset: 1 });
        assert_eq!((account.borrow().keys().count(), account.borrow().gaps()), (1, 0));
        let other = r#"{"events":[],"epoch":"f","offset":7,"recovered":false}"#;
        take_page(Source::Outbox, page(other), &account).unwrap();
        assert_eq!((account.borrow().gaps(), account.borrow().epochs().len()), (1, 2));
    }
}
