//! The binary: arguments in, an exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    // Above and before a child there is no room for anything else: no runtime, no configuration.
    if args.next_if(|verb| verb == "__keep").is_some() {
        return chillgate::supervisor::keep::run(args);
    }
    if args.next_if(|verb| verb == "__exec").is_some() {
        return chillgate::supervisor::exec::run(args);
    }
    chillgate::cli::run::run()
}
