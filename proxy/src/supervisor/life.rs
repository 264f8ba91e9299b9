//! A pipe that nobody writes to: whoever holds its reading end hears that chillgate is dead, for
//! the kernel closes the writing end then, however it died.
//!
//! For keepers on systems without a death signal. One pipe for all of them: it is made before the
//! first of them starts, so that none inherits the writing end.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;

use rustix::io::{FdFlags, fcntl_setfd};

/// Both ends; dropped, the readers hear it.
pub(super) struct Life {
    reader: PipeReader,
    _writer: PipeWriter,
}

impl Life {
    pub(super) fn begin() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        // Handed on to every child; a keeper closes it for what comes below.
        fcntl_setfd(&reader, FdFlags::empty())?;
        Ok(Self {
            reader,
            _writer: writer,
        })
    }

    /// The number under which a child has the reading end.
    pub(super) fn number(&self) -> i32 {
        self.reader.as_raw_fd()
    }
}

/// That of this process; `None` if it has no room for two more descriptors.
pub(super) fn own() -> Option<&'static Life> {
    static OWN: OnceLock<Option<Life>> = OnceLock::new();
    OWN.get_or_init(|| Life::begin().ok()).as_ref()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a reader of its own is wanted")]
    fn a_child_hears_the_end_and_nothing_before() {
        let life = Life::begin().expect("a pipe");
        let script = format!(
            "read -t 0.2 x <&{0} && exit 7; echo waits; cat <&{0}",
            life.number()
        );
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell starts");
        let mut said = io::BufReader::new(child.stdout.take().expect("its output"));
        let mut told = String::new();
        io::BufRead::read_line(&mut said, &mut told).expect("it speaks");
        assert_eq!(told, "waits\n");
        assert!(child.try_wait().expect("asked").is_none());
        drop(life);
        assert!(child.wait().expect("it ends").success());
    }
}
