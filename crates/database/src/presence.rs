//! Presence on PostgreSQL. Members are in an unlogged table: they do not outlive the server, and need not. Leases and
//! what instances write down of their connections do. A second unlogged table, emptied with the first, tells an
//! instance that its members are gone though its lease holds.

use futures::future::FutureExt as _;
use presence::{Answer, Entered, Gone, Kind, LEASE, Member, Place, Presence, PresenceError, Record, Renewal};
use serde_json::Value;
use shared_types::{AppId, Scope};
use sqlx::{PgConnection, PgPool, Row, postgres::PgRow};
use std::{collections::HashSet, future::Future, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(5);

/// What enters given rows (in the order of the columns, the instance as `$1`), and makes sure that others come upon the
/// instance, though it may not have taken its lease yet.
macro_rules! entering {
    ($given:literal) => {
        concat!(
            "with known as (insert into presence_instances (instance, expires_at) values ($1, '-infinity') \
                            on conflict (instance) do nothing) \
             insert into presence_members as m \
                 (application_id, environment, place, socket_id, client_id, instance, data, joined_at) ",
            $given,
            " on conflict (application_id, environment, place, socket_id) do update \
                  set client_id = excluded.client_id, instance = excluded.instance, data = excluded.data \
              returning m.application_id, m.environment, m.place, m.socket_id, m.joined_at, xmax = 0 as is_new"
        )
    };
}

const ENTER: &str = entering!("values ($2, $3, $4, $5, $6, $1, $7, $8)");
const ENTER_AGAIN: &str = entering!(
    "select application, environment, place, socket, client, $1, data, since \
     from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[]) \
          as given (application, environment, place, socket, client, data, since)"
);

/// Presence on PostgreSQL.
pub struct PostgresPresence {
    pool: PgPool,
}

impl PostgresPresence {
    /// Presence in the platform's database.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

fn answer<T: Send + 'static>(
    work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'static,
) -> Answer<T> {
    async move {
        match tokio::time::timeout(TIMEOUT, work).await {
            Ok(done) => done.map_err(|error| PresenceError(error.to_string())),
            Err(_) => Err(PresenceError("no answer in time".to_owned())),
        }
    }
    .boxed()
}

fn member(row: &PgRow) -> Result<Member, sqlx::Error> {
    let data: &str = row.try_get("data")?;
    Ok(Member {
        client_id: row.try_get("client_id")?,
        socket_id: row.try_get("socket_id")?,
        data: serde_json::from_str(data).unwrap_or(Value::Null),
        joined_at: row.try_get("joined_at")?,
    })
}

fn gone(row: &PgRow) -> Result<Option<Gone>, sqlx::Error> {
    let application: &str = row.try_get("application_id")?;
    let environment: &str = row.try_get("environment")?;
    let place = Place::read(row.try_get("place")?);
    let (Ok(environment), Some(place)) = (environment.parse(), place) else { return Ok(None) };
    let scope = Scope::new(AppId::from_stored(application), environment);
    Ok(Some(Gone { scope, place, member: member(row)? }))
}

impl Presence for PostgresPresence {
    fn enter(&self, scope: &Scope, place: &Place, instance: &str, member: Member) -> Answer<Entered> {
        let (pool, scope, is_channel) = (self.pool.clone(), scope.clone(), place.kind == Kind::Channel);
        let (place, instance) = (place.text(), instance.to_owned());
        answer(async move {
            let row = sqlx::query(ENTER)
                .bind(&instance)
                .bind(scope.application().as_str())
                .bind(scope.environment().as_str())
                .bind(&place)
                .bind(&member.socket_id)
                .bind(&member.client_id)
                .bind(member.data.to_string())
                .bind(member.joined_at)
                .fetch_one(&pool)
                .await?;
            let elsewhere = match is_channel {
                true => Vec::new(),
                false => elsewhere(&pool, &scope, &place, &member.client_id, &instance).await?,
            };
            let member = Member { joined_at: row.try_get("joined_at")?, ..member };
            Ok(Entered { is_new: row.try_get("is_new")?, member, elsewhere })
        })
    }

    fn enter_again(&self, instance: &str, members: Vec<(Scope, Place, Member)>) -> Answer<Vec<bool>> {
        let (pool, instance) = (self.pool.clone(), instance.to_owned());
        answer(async move {
            let places: Vec<String> = members.iter().map(|(_, place, _)| place.text()).collect();
            let of = |part: fn(&(Scope, Place, Member)) -> &str| members.iter().map(part).collect::<Vec<_>>();
            let data: Vec<String> = members.iter().map(|(_, _, member)| member.data.to_string()).collect();
            let rows = sqlx::query(ENTER_AGAIN)
                .bind(&instance)
                .bind(of(|(scope, ..)| scope.application().as_str()))
                .bind(of(|(scope, ..)| scope.environment().as_str()))
                .bind(&places)
                .bind(of(|(.., member)| &member.socket_id))
                .bind(of(|(.., member)| &member.client_id))
                .bind(data)
                .bind(members.iter().map(|(.., member)| member.joined_at).collect::<Vec<_>>())
                .fetch_all(&pool)
                .await?;
            let mut new = HashSet::new();
            for row in rows.iter() {
                if row.try_get("is_new")? {
                    new.insert(key(row)?);
                }
            }
            let is_new = |((scope, _, member), place): (&(Scope, Place, Member), &String)| {
                let (application, environment) = (scope.application().as_str(), scope.environment().as_str());
                new.contains(&(application, environment, place.as_str(), member.socket_id.as_str()))
            };
            Ok(members.iter().zip(&places).map(is_new).collect())
        })
    }

    fn leave(&self, scope: &Scope, place: &Place, socket_id: &str) -> Answer<Option<Member>> {
        let query = sqlx::query(
            "delete from presence_members \
             where application_id = $1 and environment = $2 and place = $3 and socket_id = $4 \
             returning client_id, socket_id, data, joined_at",
        )
        .bind(scope.application().to_string())
        .bind(scope.environment().as_str())
        .bind(place.text())
        .bind(socket_id.to_owned());
        let pool = self.pool.clone();
        answer(async move { query.fetch_optional(&pool).await?.as_ref().map(member).transpose() })
    }

    fn members(
        &self,
        scope: &Scope,
        place: &Place,
        after: Option<&str>,
        limit: usize,
    ) -> Answer<Vec<Member>> {
        let query = sqlx::query(
            "select client_id, socket_id, data, joined_at from presence_members \
             where application_id = $1 and environment = $2 and place = $3 and socket_id > $4 \
             order by socket_id limit $5",
        )
        .bind(scope.application().to_string())
        .bind(scope.environment().as_str())
        .bind(place.text())
        .bind(after.unwrap_or_default().to_owned())
        .bind(limit as i64);
        let pool = self.pool.clone();
        answer(async move { query.fetch_all(&pool).await?.iter().map(member).collect() })
    }

    fn places(
        &self,
        scope: &Scope,
        kind: Kind,
        after: Option<&str>,
        limit: usize,
    ) -> Answer<Vec<(String, u64)>> {
        let prefix = format!("{}:", kind.letter());
        let query = sqlx::query(
            "select place, count(*) as members from presence_members \
             where application_id = $1 and environment = $2 and place > $3 and starts_with(place, $4) \
             group by place order by place limit $5",
        )
        .bind(scope.application().to_string())
        .bind(scope.environment().as_str())
        .bind(format!("{prefix}{}", after.unwrap_or_default()))
        .bind(prefix)
        .bind(limit as i64);
        let pool = self.pool.clone();
        answer(async move {
            let rows = query.fetch_all(&pool).await?;
            let place = |row: &PgRow| {
                let text: &str = row.try_get("place")?;
                let members: i64 = row.try_get("members")?;
                Ok((text[2..].to_owned(), members.unsigned_abs()))
            };
            rows.iter().map(place).collect()
        })
    }

    fn renew(&self, instance: &str) -> Answer<Renewal> {
        let (pool, instance) = (self.pool.clone(), instance.to_owned());
        answer(async move {
            let renewed = sqlx::query_as(
                "with old as (select expires_at > clock_timestamp() as holds from presence_instances \
                              where instance = $1), \
                 new as (insert into presence_instances (instance, expires_at) \
                         values ($1, clock_timestamp() + make_interval(secs => $2)) \
                         on conflict (instance) do update set expires_at = excluded.expires_at), \
                 emptied as (insert into presence_kept (instance) values ($1) \
                             on conflict (instance) do nothing returning instance) \
                 select coalesce((select holds from old), false), exists (select from emptied)",
            );
            let renewed = renewed.bind(instance).bind(LEASE.as_secs_f64()).fetch_one(&pool).await?;
            Ok(match renewed {
                (false, _) => Renewal::Lapsed,
                (true, true) => Renewal::Emptied,
                (true, false) => Renewal::Held,
            })
        })
    }

    fn retire(&self, instance: &str) -> Answer<()> {
        let (pool, instance) = (self.pool.clone(), instance.to_owned());
        answer(async move {
            let sql = "update presence_instances set expires_at = '-infinity' where instance = $1";
            sqlx::query(sql).bind(instance).execute(&pool).await.map(drop)
        })
    }

    fn dead(&self) -> Answer<Vec<String>> {
        let pool = self.pool.clone();
        answer(async move {
            let sql =
                "select instance from presence_instances where expires_at <= clock_timestamp() order by 1";
            sqlx::query_scalar(sql).fetch_all(&pool).await
        })
    }

    fn left_by(&self, instance: &str) -> Answer<Vec<Gone>> {
        let (pool, instance) = (self.pool.clone(), instance.to_owned());
        answer(async move {
            let sql = "select application_id, environment, place, client_id, socket_id, data, joined_at \
                       from presence_members where instance = $1";
            let rows = sqlx::query(sql).bind(instance).fetch_all(&pool).await?;
            rows.iter().filter_map(|row| gone(row).transpose()).collect()
        })
    }

    fn reap(&self, instance: &str) -> Answer<Vec<Gone>> {
        let (pool, instance) = (self.pool.clone(), instance.to_owned());
        answer(async move {
            let sql = "delete from presence_members where instance = $1 and not exists ( \
                           select from presence_instances \
                           where instance = $1 and expires_at > clock_timestamp()) \
                       returning application_id, environment, place, client_id, socket_id, data, joined_at";
            let rows = sqlx::query(sql).bind(&instance).fetch_all(&pool).await?;
            let sql = "delete from presence_instances where instance = $1 and expires_at <= clock_timestamp() \
                       and not exists (select from live_connections where instance = $1)";
            let forgotten = sqlx::query(sql).bind(&instance).execute(&pool).await?.rows_affected();
            if forgotten > 0 {
                let sql = "delete from presence_kept where instance = $1";
                sqlx::query(sql).bind(&instance).execute(&pool).await?;
            }
            rows.iter().filter_map(|row| gone(row).transpose()).collect()
        })
    }

    fn instances(&self) -> Answer<Vec<String>> {
        let pool = self.pool.clone();
        answer(async move {
            let sql =
                "select instance from presence_instances where expires_at > clock_timestamp() order by 1";
            sqlx::query_scalar(sql).fetch_all(&pool).await
        })
    }

    fn hold(&self, instance: &str, records: Vec<Record>) -> Answer<()> {
        let (pool, instance) = (self.pool.clone(), instance.to_owned());
        let (keys, texts): (Vec<String>, Vec<String>) =
            records.into_iter().map(|record| (record.key, record.text)).unzip();
        answer(async move {
            let sql = "insert into live_connections (instance, key, record) \
                       select $1, key, record from unnest($2::text[], $3::text[]) as given (key, record) \
                       on conflict (instance, key) do update set record = excluded.record";
            let mut tx = pool.begin().await?;
            known(&mut tx, &instance).await?;
            sqlx::query(sql).bind(instance).bind(keys).bind(texts).execute(&mut *tx).await?;
            tx.commit().await
        })
    }

    fn release(&self, instance: &str, keys: Vec<String>) -> Answer<()> {
        let (pool, instance) = (self.pool.clone(), instance.to_owned());
        answer(async move {
            let sql = "delete from live_connections where instance = $1 and key = any($2)";
            sqlx::query(sql).bind(instance).bind(keys).execute(&pool).await.map(drop)
        })
    }

    fn records(&self, instance: &str, limit: usize) -> Answer<Vec<Record>> {
        let (pool, instance) = (self.pool.clone(), instance.to_owned());
        answer(async move {
            let sql = "select key, record from live_connections where instance = $1 order by key limit $2";
            let rows: Vec<(String, String)> =
                sqlx::query_as(sql).bind(instance).bind(limit as i64).fetch_all(&pool).await?;
            Ok(rows.into_iter().map(|(key, text)| Record { key, text }).collect())
        })
    }
}

/// What no two members share: application, environment, place and socket.
fn key(row: &PgRow) -> Result<(&str, &str, &str, &str), sqlx::Error> {
    Ok((
        row.try_get("application_id")?,
        row.try_get("environment")?,
        row.try_get("place")?,
        row.try_get("socket_id")?,
    ))
}

/// Makes sure that others come upon the instance, though it has not taken its lease yet.
async fn known(connection: &mut PgConnection, instance: &str) -> Result<(), sqlx::Error> {
    let sql = "insert into presence_instances (instance, expires_at) values ($1, '-infinity') \
               on conflict (instance) do nothing";
    sqlx::query(sql).bind(instance).execute(connection).await.map(drop)
}

/// Entries of the same client by other instances.
async fn elsewhere(
    pool: &PgPool,
    scope: &Scope,
    place: &str,
    client_id: &str,
    instance: &str,
) -> Result<Vec<(String, Member)>, sqlx::Error> {
    let rows = sqlx::query(
        "select instance, client_id, socket_id, data, joined_at from presence_members \
         where application_id = $1 and environment = $2 and place = $3 and client_id = $4 and instance <> $5 \
         order by socket_id limit 100",
    )
    .bind(scope.application().as_str())
    .bind(scope.environment().as_str())
    .bind(place)
    .bind(client_id)
    .bind(instance)
    .fetch_all(pool)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("instance")?, member(row)?))).collect()
}
