//! From a parsed command line to what it does: one arm a verb.

use std::process::ExitCode;

use super::{
    Global, Verb, check, doctor, explain, incidents, key, overrides, quota, revoke, service,
};
use crate::app::{self, Mode};
use crate::config::load::{self, Sources};

/// Does what the command line says.
pub fn run() -> ExitCode {
    let cli = match super::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(answer) => return answer.print(),
    };
    let Global { .. } = &cli.global;
    match &cli.verb {
        Verb::Serve(args) => start(args.sources(&cli.global), Mode::Serve),
        Verb::Wrap(args) => start(args.sources(&cli.global), Mode::Wrap(args.server_name())),
        Verb::Connect(args) => start(args.sources(&cli.global), Mode::Wrap(args.server_name())),
        Verb::Chill(args) => start(args.sources(&cli.global), Mode::Wrap("chill".to_owned())),
        Verb::Check(args) => check::run(args, &cli.global),
        Verb::Explain(args) => explain::run(args, &cli.global),
        Verb::Doctor(args) => doctor::run(args, &cli.global),
        Verb::Incidents(args) => incidents::run(args, &cli.global),
        Verb::Quota(args) => quota::run(args, &cli.global),
        Verb::Revoke(args) => revoke::run(args, &cli.global),
        Verb::Override(args) => overrides::run(args, &cli.global),
        Verb::Key(args) => key::run(args),
        Verb::Service(args) => service::run(args),
        // main.rs has taken this verb before anything is parsed.
        Verb::Keep(args) => crate::supervisor::keep::run(args.args.iter().cloned()),
    }
}

fn start(sources: Sources, mode: Mode) -> ExitCode {
    let loaded = load::load(&sources).and_then(|loaded| loaded.require_server().map(|()| loaded));
    match loaded {
        Ok(loaded) => app::run(loaded, sources, mode),
        Err(report) => {
            report.print();
            ExitCode::from(2)
        }
    }
}
