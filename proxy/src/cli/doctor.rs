//! `chillgate doctor`: each server started once and looked at, and all that `serve` needs besides.
//!
//! For the moment when something does not work and nobody knows what. It serves nobody, and leaves
//! nothing behind.

use std::process::ExitCode;

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;

use super::Global;
use super::answer::{Answer, FINE, FOUND};
use crate::config::ServerName;
use crate::config::load::{Loaded, load};
use crate::incidents::Incidents;
use crate::state::{self, Folder};

mod finding;
mod machine;
mod overheard;
mod progress;
mod server;
mod visit;

use finding::{Level, block, worst};
use overheard::Overheard;
use progress::Progress;
use server::Examined;

/// How many servers are looked at at once.
const AT_ONCE: usize = 8;

/// `chillgate doctor`.
#[derive(Args, Clone, Debug, Default)]
pub struct DoctorArgs {
    /// Look at this server only.
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    /// Findings as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Looks at everything and prints what was found.
pub fn run(args: &DoctorArgs, global: &Global) -> ExitCode {
    let loaded = load(&global.sources());
    let loaded = loaded.and_then(|loaded| loaded.require_server().map(|()| loaded));
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(report) => {
            report.print();
            return ExitCode::from(super::answer::CANNOT);
        }
    };
    if let Some(answer) = unknown(args, &loaded) {
        return answer.print();
    }
    let overheard = Overheard::listen();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(look(args, &loaded, &overheard)).print(),
        Err(error) => {
            Answer::cannot(&format!("the runtime could not be made: {error}"), None).print()
        }
    }
}

fn unknown(args: &DoctorArgs, loaded: &Loaded) -> Option<Answer> {
    let wanted = args.server.as_deref()?;
    let names: Vec<&str> = loaded
        .config
        .server
        .keys()
        .map(ServerName::as_str)
        .collect();
    (!names.contains(&wanted)).then(|| Answer::no_server(wanted, &names))
}

async fn look(args: &DoctorArgs, loaded: &Loaded, overheard: &Overheard) -> Answer {
    let config = &loaded.config;
    let wanted = config.server.iter().filter(|(name, _)| {
        let only = args.server.as_deref();
        only.is_none_or(|only| only == name.as_str())
    });
    let wanted: Vec<_> = wanted.collect();
    // A look at a server is a start like any other: it is remembered, and what helped before is said.
    let folder = state::folder(&config.state).ok().and_then(Folder::found);
    let incidents = Incidents::open(folder, &config.remedy);
    let mut progress = Progress::of(wanted.iter().map(|(name, _)| name.as_str()).collect());
    let looking = wanted.iter().enumerate().map(|(number, (name, server))| {
        let looking = server::examine(config, name, server, overheard, &incidents);
        async move { (number, looking.await) }
    });
    let looking = looking.collect::<Vec<_>>();
    // As they are done: a slow one must not keep those behind it from being begun.
    let mut looking = stream::iter(looking).buffer_unordered(AT_ONCE);
    let mut servers: Vec<(usize, Examined)> = Vec::new();
    while let Some((number, examined)) = looking.next().await {
        let head = || format!("server {}", examined.server);
        progress.done(
            number,
            (!args.json).then(|| block(&head(), &examined.findings)),
        );
        servers.push((number, examined));
    }
    servers.sort_by_key(|(number, _)| *number);
    let servers: Vec<Examined> = servers.into_iter().map(|(_, examined)| examined).collect();
    let around = match &args.server {
        None => machine::look(loaded).await,
        Some(_) => Vec::new(),
    };
    incidents.flush();
    let level = servers
        .iter()
        .map(|examined| examined.level)
        .chain([worst(&around)])
        .max()
        .unwrap_or(Level::Ok);
    let out = if args.json {
        let all = json!({
            "config": loaded.source.name(),
            "level": level,
            "servers": servers,
            "machine": around,
        });
        format!("{all}\n")
    } else {
        // Those of the servers are out already.
        match &args.server {
            None => {
                let head = format!("around ({})", loaded.source.name());
                format!("\n{}", block(&head, &around))
            }
            Some(_) => String::new(),
        }
    };
    Answer {
        out,
        code: if level == Level::Ok { FINE } else { FOUND },
        ..Answer::default()
    }
}
