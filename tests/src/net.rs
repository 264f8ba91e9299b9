//! A network of a test's own: machines with addresses of their own, and links that can be cut.
//!
//! It stands apart because a test that uses it runs in a namespace of its own, which ends with it:
//! nothing of the machine's network is touched, and nothing is left behind. It needs root or a kernel
//! that lets users make namespaces, `ip`, `unshare`, `nsenter` and `nft`, and fails without them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::process::{command, instead};
use crate::until;
use crate::wait::seconds;

/// Says that the test is in a namespace of its own already.
const INSIDE: &str = "CHILLGATE_TESTS_INSIDE";

/// Runs this test, by its whole name, once more in a network namespace; false where that was done
/// and there is nothing more to do.
///
/// # Panics
/// When it fails there.
pub async fn apart(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let own = std::env::current_exe().expect("a test knows its program");
    let mut inside = command("unshare");
    if !rustix::process::getuid().is_root() {
        inside.arg("--map-root-user");
    }
    inside.args(["--net", "--"]).arg(own);
    inside
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1");
    let status = inside.status().await.expect("`unshare` can be started");
    assert!(status.success(), "{test} has failed in its namespace");
    false
}

/// The network: a bridge at 10.99.0.1, where the test itself is.
#[derive(Debug)]
pub struct Net(());

/// A machine on it.
#[derive(Debug)]
pub struct Place {
    holder: Child,
    number: u8,
}

impl Net {
    /// The test's own address.
    pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

    /// Makes it.
    ///
    /// # Panics
    /// When the test is not [`apart`], or not root.
    pub async fn new() -> Self {
        assert!(std::env::var_os(INSIDE).is_some(), "not apart");
        run("ip", &["link", "set", "lo", "up"]).await;
        run("ip", &["link", "add", "br0", "type", "bridge"]).await;
        let here = format!("{}/24", Self::HERE);
        run("ip", &["addr", "add", &here, "dev", "br0"]).await;
        run("ip", &["link", "set", "br0", "up"]).await;
        Self(())
    }

    /// A new machine at 10.99.0.NUMBER.
    pub async fn place(&self, number: u8) -> Place {
        let mut holder = command("unshare");
        holder.args(["--net", "--", "sleep", "3600"]);
        let holder = holder.stdin(Stdio::null()).spawn().expect("a namespace");
        let place = Place { holder, number };
        let pid = place.pid();
        let own = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
        let theirs = format!("/proc/{pid}/ns/net");
        until("a namespace", seconds(5), async || {
            let made = std::fs::read_link(&theirs).ok()?;
            (made != own).then_some(())
        })
        .await;
        let link = place.link();
        let peer = ["peer", "name", "eth0", "netns", &pid];
        run(
            "ip",
            &[&["link", "add", &link, "type", "veth"], &peer[..]].concat(),
        )
        .await;
        run("ip", &["link", "set", &link, "master", "br0", "up"]).await;
        place.run("ip", &["link", "set", "lo", "up"]).await;
        let address = format!("{}/24", place.address());
        place
            .run("ip", &["addr", "add", &address, "dev", "eth0"])
            .await;
        place.run("ip", &["link", "set", "eth0", "up"]).await;
        place
    }
}

impl Place {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, self.number)
    }

    fn pid(&self) -> String {
        self.holder.id().expect("it runs").to_string()
    }

    fn link(&self) -> String {
        format!("veth{}", self.number)
    }

    /// Nothing reaches it, and nothing leaves it, without a word to anybody.
    pub async fn cut(&self) {
        run("ip", &["link", "set", &self.link(), "down"]).await;
    }

    /// It is reached again.
    pub async fn heal(&self) {
        run("ip", &["link", "set", &self.link(), "up"]).await;
    }

    /// Drops what it sends to this TCP port, until [`Place::pass`].
    pub async fn drop_to(&self, port: u16) {
        let rule = format!(
            "add table ip cut; add chain ip cut out {{ type filter hook output priority 0; }}; \
             add rule ip cut out tcp dport {port} drop"
        );
        self.run("nft", &[&rule]).await;
    }

    /// Drops nothing any more.
    pub async fn pass(&self) {
        self.run("nft", &["delete table ip cut"]).await;
    }

    /// This command, on this machine.
    pub fn inside(&self, there: &Command) -> Command {
        let program = there.as_std().get_program();
        let program = program.to_str().expect("a program has a plain name");
        let words = ["--target", &self.pid(), "--net", "--", program];
        instead("nsenter", &words, there)
    }

    async fn run(&self, program: &str, words: &[&str]) {
        let mut there = command(program);
        there.args(words);
        finish(self.inside(&there)).await;
    }
}

async fn run(program: impl AsRef<Path>, words: &[&str]) {
    let mut run = command(program);
    run.args(words);
    finish(run).await;
}

async fn finish(mut command: Command) {
    let told = command.output().await;
    let told = told.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let wrong = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success(), "{command:?}: {wrong}");
}
