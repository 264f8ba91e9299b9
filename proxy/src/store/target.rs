//! How the store is reached: one server, a cluster, or the master that Sentinels name; TLS; a user.
//!
//! Makes connections and keeps none: which of them is used, and when there is to be another, is the
//! link's matter.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisFuture,
    TlsCertificates, TlsMode, Value,
};
use secrecy::{ExposeSecret, SecretString};

use crate::config::State;
use crate::config::secret::SecretText;

/// Where the store is.
#[derive(Debug)]
pub struct Target {
    reach: State,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something that the configuration names cannot be had.
    #[error("{0}")]
    Unusable(String),
    /// The store does not answer as it should.
    #[error("{0}")]
    Away(#[from] redis::RedisError),
}

/// A connection, which many calls use at a time; clones are the same.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Target {
    /// The store that is configured; none, where counters are kept in this process.
    pub fn of(reach: &State) -> Option<Self> {
        reach.shared().map(|_| Self {
            reach: reach.clone(),
        })
    }

    /// A new connection. Secrets and certificates are read again for each.
    pub(super) async fn connect(&self, within: Duration) -> Result<Connection, StoreError> {
        let settings = self.settings()?;
        let mut nodes = Vec::new();
        for url in &self.reach.store {
            let node = url.as_str().into_connection_info()?;
            let db = node.redis_settings().db();
            nodes.push(node.set_redis_settings(settings.clone().set_db(db)));
        }
        let (first, is_one) = (nodes.first().cloned(), nodes.len() == 1);
        let first = first.ok_or_else(|| StoreError::Unusable("no address".to_owned()))?;
        // The library works on them with each connection, also where it needs none.
        let certificates = if nodes.iter().any(is_tls) {
            Some(self.certificates().await?)
        } else {
            None
        };
        if let Some(master) = &self.reach.sentinel {
            return self.master(master, nodes, certificates, within).await;
        }
        if is_one {
            let client = match certificates {
                Some(certificates) => Client::build_with_tls(first, certificates),
                None => Client::open(first),
            }?;
            let connection = client
                .get_multiplexed_async_connection_with_config(&of_one(within))
                .await?;
            return Ok(Connection::One(connection));
        }
        let mut cluster = ClusterClient::builder(nodes)
            .retries(2)
            .connection_timeout(within)
            .response_timeout(within);
        if let Some(certificates) = certificates {
            cluster = cluster.certs(certificates);
        }
        let connection = cluster.build()?.get_async_connection().await?;
        Ok(Connection::Cluster(connection))
    }

    /// Sentinels take no user of their own: they are asked as nobody, and what they name as us.
    async fn master(
        &self,
        name: &str,
        sentinels: Vec<ConnectionInfo>,
        certificates: Option<TlsCertificates>,
        within: Duration,
    ) -> Result<Connection, StoreError> {
        let db = sentinels
            .first()
            .map_or(0, |first| first.redis_settings().db());
        let addresses = sentinels.iter().map(|node| node.addr().clone());
        let kind = SentinelServerType::Master;
        let mut client =
            SentinelClientBuilder::new(addresses, name, kind)?.set_client_to_redis_db(db);
        if let Some(certificates) = certificates {
            client = client
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        if let Some(user) = &self.reach.username {
            client = client.set_client_to_redis_username(user);
        }
        if let Some(password) = self.password()? {
            client = client.set_client_to_redis_password(password.expose_secret());
        }
        let mut client = client.build()?;
        let connection = client
            .get_async_connection_with_config(&of_one(within))
            .await?;
        Ok(Connection::One(connection))
    }

    fn password(&self) -> Result<Option<SecretString>, StoreError> {
        let resolved = self.reach.password.as_ref().map(SecretText::resolve);
        resolved.transpose().map_err(|error| {
            StoreError::Unusable(format!("state.password: {}", error_chain(&error)))
        })
    }

    fn settings(&self) -> Result<RedisConnectionInfo, StoreError> {
        // What a user may not do is not tried: `CLIENT SETINFO` is of no use to us.
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(user) = &self.reach.username {
            settings = settings.set_username(user);
        }
        if let Some(password) = self.password()? {
            settings = settings.set_password(password.expose_secret());
        }
        Ok(settings)
    }

    async fn certificates(&self) -> Result<TlsCertificates, StoreError> {
        let root_cert = match &self.reach.ca {
            None => None,
            Some(file) => {
                let read = tokio::fs::read(file).await;
                let unreadable =
                    |error| StoreError::Unusable(format!("state.ca: {}: {error}", file.display()));
                Some(read.map_err(unreadable)?)
            }
        };
        Ok(TlsCertificates {
            client_tls: None,
            root_cert,
        })
    }
}

fn is_tls(node: &ConnectionInfo) -> bool {
    matches!(node.addr(), redis::ConnectionAddr::TcpTls { .. })
}

/// What a connection to one server may take. Its own limits are the wider ones: the link has closer.
fn of_one(within: Duration) -> redis::AsyncConnectionConfig {
    redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(within))
        .set_response_timeout(Some(within))
}

fn error_chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(cause) => format!("{error}: {}", error_chain(cause)),
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(one) => one.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(one) => one.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(one) => one.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}
