//! The admin API: usage shown and given back, overrides, reloads, for an operator of this machine.
//!
//! On a Unix socket or loopback only, on a thread of its own: what is asked here slows no call down.
//! It orders and shows; what happens then is the reloader's and the ledger's. Nothing here is served
//! to hosts.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use chillgate_policies::engine::Services;
use tokio::sync::oneshot;
use tracing::{error, info};

use crate::config::{Admin, State};
use crate::overrides::Overrides;
use crate::reload::Desk;
use crate::snapshot::Live;

mod answer;
pub mod ask;
mod connections;
mod guard;
mod listener;
mod shown;
mod usage;

use guard::Guard;
use listener::Bound;

/// What is asked and told to do things.
pub struct Sources {
    /// The current generation.
    pub live: Live,
    /// Who reloads.
    pub desk: Desk,
    /// What replaces values for a while.
    pub overrides: Overrides,
    /// Counters, the clock, and the audit log.
    pub services: Arc<Services>,
    /// Where counters are kept that replicas share.
    pub state: State,
}

/// A listener at work; dropping it ends the thread and takes its socket away.
#[derive(Debug)]
pub struct Serving {
    socket: Option<PathBuf>,
    _stop: oneshot::Sender<()>,
}

/// Takes the address and answers from then on.
///
/// # Errors
/// In words, where the address or the token cannot be had.
pub async fn serve(admin: &Admin, sources: Sources) -> Result<Serving, String> {
    let guard = Guard::new(admin);
    guard
        .try_token()
        .map_err(|error| format!("admin.token: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime of the admin API: {error}"))?;
    let (stop, stopped) = oneshot::channel();
    let (told, bound) = oneshot::channel();
    let listen = admin.listen.clone();
    thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let bound = match Bound::new(&listen).await {
                    Ok(bound) => bound,
                    Err(error) => {
                        let _ = told.send(Err(error));
                        return;
                    }
                };
                let guard = guard.bound(bound.address());
                let _ = told.send(Ok(bound.socket()));
                info!(address = %bound.name(), "Listening for administrators.");
                let serving = connections::serve(bound, Arc::new(guard), Arc::new(sources));
                tokio::select! {
                    () = serving => error!("The admin listener ended."),
                    _ = stopped => {}
                }
            });
        })
        .map_err(|error| format!("the thread of the admin API: {error}"))?;
    let bound = bound
        .await
        .map_err(|_| "the admin API has failed".to_owned())?;
    let socket = bound.map_err(|error| {
        format!(
            "cannot listen on {} for administrators: {error}",
            admin.listen
        )
    })?;
    Ok(Serving {
        socket,
        _stop: stop,
    })
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}
