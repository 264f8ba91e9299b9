//! The two adapters around one hub: what a host of an era means, what a server of an era hears.
//!
//! Inside, messages are in the words of the newest legacy revision. A message between two sides of
//! one era comes out byte for byte as it went in. So far both adapters know one era; a modern
//! host's request is recognised and refused with the answer that makes it fall back.

pub mod host;
