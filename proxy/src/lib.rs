//! chillgate: one binary between MCP hosts and MCP servers.
//!
//! The map, in the order in which a message travels: [`front`] takes it in, [`gate`] is the spine,
//! [`route`] finds its server, policies (their own crate) decide, [`backend`] carries it there.
//! [`session`] and [`exchange`] hold what a host and a call need meanwhile. [`config`] is what the
//! user wrote, [`snapshot`] what it means, [`reload`] how it changes, [`app`] how all of it starts
//! and ends. ARCHITECTURE.md beside this crate walks one message through.

pub mod admin;
pub mod ahead;
pub mod app;
pub mod backend;
pub mod breaks;
pub mod budget;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod drain;
pub mod era;
pub mod exchange;
pub mod front;
pub mod gate;
pub mod health;
pub mod identity;
pub mod incidents;
pub mod line;
mod lock;
mod map;
pub mod ops;
pub mod overrides;
mod platform;
pub mod random;
pub mod reload;
pub mod replicas;
pub mod rest;
pub mod route;
pub mod service;
pub mod session;
pub mod snapshot;
pub mod spent;
pub mod standing;
pub mod state;
pub mod store;
pub mod supervisor;
pub mod telemetry;
