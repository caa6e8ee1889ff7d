//! Customers who order, and a warehouse that packs and ships: about two changes a second.

use rand::Rng;
use rand::seq::IndexedRandom;
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The shop keeps this many orders; the oldest finished ones go first.
const KEPT_ORDERS: i64 = 500;
/// How many unfinished orders there are before the warehouse works faster than customers order.
const BUSY: i64 = 12;
const CHANGE_LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
const PRODUCTS: [(&str, i64); 6] = [
    ("Desk lamp", 3900),
    ("Notebook", 650),
    ("Fountain pen", 2400),
    ("Tea kettle", 4500),
    ("Wool blanket", 7900),
    ("Bicycle bell", 1250),
];

/// A running generator.
#[derive(Debug)]
pub struct Generator {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Generator {
    /// Begins to change the shop at `url`. A database that does not answer is tried again.
    pub fn start(url: String) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = generate(&url) => {}
                _ = stopped => {}
            }
        });
        Self { stop, task }
    }

    /// Ends it; a change that is under way is rolled back.
    pub async fn stop(self) {
        // It may have ended already, with the runtime.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn generate(url: &str) {
    loop {
        if let Err(error) = trade(url).await {
            tracing::warn!(%error, "the example shop cannot be changed; trying again");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn trade(url: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    loop {
        let pause = Duration::from_millis(rand::rng().random_range(250..750));
        tokio::time::sleep(pause).await;
        let changed = tokio::time::timeout(CHANGE_LIMIT, change(&mut connection)).await;
        changed.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
    }
}

/// A new order, or the next step of one that waits.
async fn change(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let open: i64 =
        sqlx::query_scalar("select count(*) from orders where status not in ('delivered', 'cancelled')")
            .fetch_one(&mut *connection)
            .await?;
    let order_chance = if open < BUSY { 0.5 } else { 0.2 };
    if open == 0 || rand::rng().random_bool(order_chance) {
        place(connection).await
    } else {
        advance(connection).await
    }
}

async fn place(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let lines: Vec<(&str, i64, i32)> = {
        let mut rng = rand::rng();
        let count = rng.random_range(1..=3);
        let chosen: Vec<_> = PRODUCTS.choose_multiple(&mut rng, count).copied().collect();
        chosen.into_iter().map(|(product, cents)| (product, cents, rng.random_range(1..=3))).collect()
    };
    let total: i64 = lines.iter().map(|(_, cents, quantity)| cents * i64::from(*quantity)).sum();
    let mut transaction = connection.begin().await?;
    let id: i64 = sqlx::query_scalar(
        "insert into orders (customer_id, customer_name, total)
        select id, name, $1::bigint / 100.0 from customers order by random() limit 1 returning id",
    )
    .bind(total)
    .fetch_one(&mut *transaction)
    .await?;
    for (product, cents, quantity) in lines {
        sqlx::query(
            "insert into order_items (order_id, product, quantity, price) values ($1, $2, $3, $4::bigint / 100.0)",
        )
        .bind(id)
        .bind(product)
        .bind(quantity)
        .bind(cents)
        .execute(&mut *transaction)
        .await?;
    }
    sqlx::query(
        "delete from orders where id in (
            select id from orders where status in ('delivered', 'cancelled') order by id desc offset $1)",
    )
    .bind(KEPT_ORDERS)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// One in twenty paid for too late is cancelled; the others go on.
async fn advance(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let cancels = rand::rng().random_bool(0.05);
    sqlx::query(
        "update orders set updated_at = now(), status = case
            when status = 'placed' and $1 then 'cancelled'
            when status = 'placed' then 'paid'
            when status = 'paid' then 'packed'
            when status = 'packed' then 'shipped'
            else 'delivered' end
        where id = (
            select id from orders where status not in ('delivered', 'cancelled') order by random() limit 1)",
    )
    .bind(cancels)
    .execute(connection)
    .await?;
    Ok(())
}
