//! The suite that every implementation passes, on one server and on a cluster.

use crate::harness::{Instance, listening};
use event_log::contract::Log;
use leadership::{Leader, contract::Lose};
use parking_lot::Mutex;
use redis_layer::RedisSettings;
use std::sync::Arc;
use testkit::{LocalRedis, LocalRedisCluster, Persistence, TestDatabase};

/// Keeps the store and the instances alive for a test.
pub struct Guard<Server> {
    instances: [Instance; 2],
    _server: Server,
    database: TestDatabase,
}

fn two<Server>(url: &str, server: Server, database: TestDatabase) -> (Guard<Server>, Log, Log) {
    let instances = [(); 2].map(|()| Instance::start(RedisSettings::new(url), &database));
    let [first, second]: [Log; 2] = [instances[0].log.clone(), instances[1].log.clone()];
    (Guard { instances, _server: server, database }, first, second)
}

/// The leases of both instances.
fn leaders<Server>(guard: &mut Guard<Server>) -> [Arc<dyn Leader>; 2] {
    let Guard { instances, database, .. } = guard;
    instances.each_mut().map(|instance| -> Arc<dyn Leader> { instance.leader(database) })
}

/// The key of a lease.
fn lease(name: &str) -> String {
    format!("realtime:{{leases}}:{name}")
}

fn at_once(lose: impl Fn(&str) + Send + Sync + 'static) -> Lose {
    Box::new(move |name| {
        lose(name);
        Box::pin(std::future::ready(()))
    })
}

mod presence_on_a_server {
    use super::*;
    use presence::contract::Store;

    async fn start() -> (Guard<LocalRedis>, Store) {
        let server = LocalRedis::start(Persistence::Nothing);
        let (guard, ..) = two(&server.url(), server, testkit::database().await);
        let store = Arc::new(guard.instances[0].log.presence());
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
        let store = Arc::new(guard.instances[0].log.presence());
        (guard, store)
    }

    presence::contract_tests!(start);
}

mod leadership_on_a_server {
    use super::*;
    use leadership::contract::Leases;

    async fn start() -> (Guard<Arc<LocalRedis>>, Leases) {
        let server = Arc::new(LocalRedis::start(Persistence::Nothing));
        let (mut guard, ..) = two(&server.url(), server.clone(), testkit::database().await);
        let leaders = leaders(&mut guard);
        listening(&server, "NUMSUB", 2).await;
        let lose = move |name: &str| drop(server.command(&["DEL", &lease(name)]));
        (guard, Leases { leaders, lose: at_once(lose) })
    }

    leadership::contract_tests!(start);
}

mod leadership_on_a_cluster {
    use super::*;
    use leadership::contract::Leases;

    async fn start() -> (Guard<()>, Leases) {
        let mut cluster = LocalRedisCluster::start();
        let (mut guard, ..) = two(&cluster.url(), (), testkit::database().await);
        let leaders = leaders(&mut guard);
        let slot = cluster.nodes()[0].command(&["CLUSTER", "KEYSLOT", "{leases}"]).remove(0);
        // Each node has a third of the slots.
        let number = slot.parse::<usize>().expect("a slot") / 5_461;
        listening(&cluster.nodes()[number], "SHARDNUMSUB", 2).await;
        let cluster = Mutex::new(cluster);
        let lose = move |name: &str| drop(cluster.lock().nodes()[number].command(&["DEL", &lease(name)]));
        (guard, Leases { leaders, lose: at_once(lose) })
    }

    leadership::contract_tests!(start);
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
