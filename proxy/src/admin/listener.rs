//! The address of the admin API: loopback, or a socket that its user alone can open.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::{TcpListener, TcpStream};

use crate::config::Listen;
use crate::front::streamable_http::listen::remove_stale;
use crate::platform::{self, UnixListener, UnixStream, user_of};

/// For its user alone.
const ALONE: u32 = 0o600;

/// An address that is taken.
pub(super) enum Bound {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

/// Somebody who has come.
pub(super) enum Visitor {
    Tcp(TcpStream, SocketAddr),
    /// With the user at the other end, as the kernel knows it.
    Unix(UnixStream, Option<u32>),
}

impl Bound {
    pub(super) async fn new(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let bound = listener.local_addr()?;
                Ok(Self::Tcp(listener, bound))
            }
            Listen::Unix(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path)?;
                if let Some(permissions) = platform::permissions(ALONE) {
                    std::fs::set_permissions(path, permissions)?;
                }
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(..) => None,
        }
    }

    pub(super) fn socket(&self) -> Option<PathBuf> {
        match self {
            Self::Tcp(..) => None,
            Self::Unix(_, path) => Some(path.clone()),
        }
    }

    /// As people and tools write it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Tcp(_, address) => format!("http://{address}"),
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Visitor> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, from) = listener.accept().await?;
                Ok(Visitor::Tcp(stream, from))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let user = user_of(&stream);
                Ok(Visitor::Unix(stream, user))
            }
        }
    }
}
