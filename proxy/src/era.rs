//! The two adapters around one hub: what a host of an era means, what a server of an era hears.
//!
//! A message stays in the words of its host until it reaches its server, and its answer in those of
//! the server until there; between two sides of one era it comes out as it went in. What chillgate
//! asks on its own account inside is in the words of the newest legacy revision.

pub mod asking;
pub mod host;
pub mod mirrored;
pub mod rounds;
pub mod server;
pub mod tasks;
