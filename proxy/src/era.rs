//! The two adapters around one hub: what a host of an era means, what a server of an era hears.
//!
//! Inside, messages are in the words of the newest legacy revision. A message between two sides of
//! one era comes out byte for byte as it went in. So far servers are spoken to in the words of the
//! legacy era, whichever era their host speaks.

pub mod host;
pub mod mirrored;
pub mod rounds;
pub mod server;
