//! The binary: arguments in, an exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Above and before a child there is no room for anything else: no runtime, no configuration.
    if let Some(code) = chillgate::supervisor::own_verb(std::env::args_os().skip(1)) {
        return code;
    }
    chillgate::cli::run::run()
}
