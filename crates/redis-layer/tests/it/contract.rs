//! The suite that every implementation passes, on one server and on a cluster.

use crate::harness::Instance;
use event_log::contract::Log;
use redis_layer::RedisSettings;
use testkit::{LocalRedis, LocalRedisCluster, Persistence, TestDatabase};

/// Keeps the store and the instances alive for a test.
pub struct Guard<Server> {
    instances: [Instance; 2],
    _server: Server,
    _database: TestDatabase,
}

fn two<Server>(url: &str, server: Server, database: TestDatabase) -> (Guard<Server>, Log, Log) {
    let instances = [(); 2].map(|()| Instance::start(RedisSettings::new(url), &database));
    let [first, second]: [Log; 2] = [instances[0].log.clone(), instances[1].log.clone()];
    (Guard { instances, _server: server, _database: database }, first, second)
}

mod presence_on_a_server {
    use super::*;
    use presence::contract::Store;

    async fn start() -> (Guard<LocalRedis>, Store) {
        let server = LocalRedis::start(Persistence::Nothing);
        let (guard, ..) = two(&server.url(), server, testkit::database().await);
        let store = std::sync::Arc::new(guard.instances[0].log.presence());
        (guard, store)
    }

    presence::contract_tests!(start);
}

mod presence_on_a_cluster {
    use super::*;
    use presence::contract::Store;

    async fn start() -> (Guard<LocalRedisCluster>, Store) {
        let cluster = LocalRedisCluster::start();
        let (guard, ..) = two(&cluster.url(), cluster, testkit::database().await);
        let store = std::sync::Arc::new(guard.instances[0].log.presence());
        (guard, store)
    }

    presence::contract_tests!(start);
}

mod server {
    use super::*;

    async fn start() -> (Guard<LocalRedis>, Log, Log) {
        let server = LocalRedis::start(Persistence::Nothing);
        two(&server.url(), server, testkit::database().await)
    }

    event_log::contract_tests!(start);
}

mod cluster {
    use super::*;

    async fn start() -> (Guard<LocalRedisCluster>, Log, Log) {
        let cluster = LocalRedisCluster::start();
        two(&cluster.url(), cluster, testkit::database().await)
    }

    event_log::contract_tests!(start);
}
